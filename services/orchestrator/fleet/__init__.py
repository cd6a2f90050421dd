"""Replicas of the other services: kept running while work is there, handed out one unit at a time."""
