"""What the store holds for users: uploaded images, datasets, and how both go again."""
