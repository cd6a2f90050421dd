/* Loaded into a process before everything else (LD_PRELOAD), tells it another time of day than that of the machine:
   WRONG_CLOCK_SECONDS later. Clocks that only count time that passes are left alone. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    /* As a system call: the function that this one takes the place of would have to be looked for. */
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    const char *seconds = getenv("WRONG_CLOCK_SECONDS");
    if (!failed && seconds && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        now->tv_sec += atol(seconds);
    }
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *also) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (also) {
        *also = exact.tv_sec;
    }
    return exact.tv_sec;
}
