/* Moves the wall clock of a process and of all that it starts: LD_PRELOAD this.

   The file named by TEST_CLOCK_FILE holds two 64-bit numbers in nanoseconds, which
   this library maps: how far the clock is ahead, and when the run began. So
   the test suite can set the clock of every process at once, while they run.

   Wall-clock times are moved on their way in and out of libc. Timers
   (CLOCK_MONOTONIC, CLOCK_BOOTTIME) go on as they are. A file's times are moved
   when it was made or changed in this run: Python compares those of its modules
   with what it has compiled. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

extern char **environ;

static const volatile int64_t *shared; /* the offset, and when the run began */
static char preload_entry[4096], file_entry[4096];
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_execve)(const char *, char *const[], char *const[]);

static int64_t to_ns(const struct timespec *at) { return at->tv_sec * NS + at->tv_nsec; }

static struct timespec from_ns(int64_t ns) {
    int64_t rest = ((ns % NS) + NS) % NS;
    return (struct timespec){.tv_sec = (ns - rest) / NS, .tv_nsec = rest};
}

static struct timespec moved(struct timespec at, int direction) {
    return from_ns(to_ns(&at) + direction * shared[0]);
}

__attribute__((constructor)) static void begin(void) {
    real_clock_gettime = REAL(clock_gettime);
    real_execve = REAL(execve);
    const char *preload = getenv("LD_PRELOAD"), *file = getenv("TEST_CLOCK_FILE");
    int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, 16, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED || !preload) {
        fprintf(stderr, "tests/clock: no TEST_CLOCK_FILE to read: %s\n", strerror(errno));
        _exit(99);
    }
    close(fd);
    shared = map;
    snprintf(preload_entry, sizeof preload_entry, "LD_PRELOAD=%s", preload);
    snprintf(file_entry, sizeof file_entry, "TEST_CLOCK_FILE=%s", file);
}

/* What the time is. */

int clock_gettime(clockid_t clock, struct timespec *at) {
    if (!real_clock_gettime)
        real_clock_gettime = REAL(clock_gettime);
    int result = real_clock_gettime(clock, at);
    if (result == 0 && shared && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        *at = moved(*at, 1);
    return result;
}

int gettimeofday(struct timeval *at, void *zone) {
    (void)zone;
    struct timespec now;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    *at = (struct timeval){.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
    return result;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}

/* Until when is waited. */

int sem_timedwait(sem_t *sem, const struct timespec *until) {
    struct timespec real = moved(*until, -1);
    return REAL(sem_timedwait)(sem, &real);
}

/* Times of files. */

static int seen(int result, struct stat *status) {
    if (result == 0 && to_ns(&status->st_ctim) >= shared[1]) {
        status->st_mtim = moved(status->st_mtim, 1);
        status->st_atim = moved(status->st_atim, 1);
        status->st_ctim = moved(status->st_ctim, 1);
    }
    return result;
}

int stat(const char *path, struct stat *status) { return seen(REAL(stat)(path, status), status); }
int lstat(const char *path, struct stat *status) { return seen(REAL(lstat)(path, status), status); }
int fstat(int fd, struct stat *status) { return seen(REAL(fstat)(fd, status), status); }
int fstatat(int dir, const char *path, struct stat *status, int flags) {
    return seen(REAL(fstatat)(dir, path, status, flags), status);
}
int stat64(const char *path, struct stat64 *status) { return stat(path, (struct stat *)status); }
int lstat64(const char *path, struct stat64 *status) { return lstat(path, (struct stat *)status); }
int fstat64(int fd, struct stat64 *status) { return fstat(fd, (struct stat *)status); }
int fstatat64(int dir, const char *path, struct stat64 *status, int flags) {
    return fstatat(dir, path, (struct stat *)status, flags);
}

static const struct timespec *given(const struct timespec times[2], struct timespec real[2]) {
    if (!times)
        return NULL;
    for (int n = 0; n < 2; n++) {
        int special = times[n].tv_nsec == UTIME_NOW || times[n].tv_nsec == UTIME_OMIT;
        real[n] = special ? times[n] : moved(times[n], -1);
    }
    return real;
}

int utimensat(int dir, const char *path, const struct timespec times[2], int flags) {
    struct timespec real[2];
    return REAL(utimensat)(dir, path, given(times, real), flags);
}

int futimens(int fd, const struct timespec times[2]) {
    struct timespec real[2];
    return REAL(futimens)(fd, given(times, real));
}

/* Programs that are started with an environment of their own. Called after vfork: no malloc. */

static size_t length(char *const env[]) {
    size_t count = 0;
    while (env && env[count])
        count++;
    return count;
}

/* `with` has room for two more than `env`, and the end. */
static void add_clock(char *const env[], char *with[]) {
    size_t kept = 0;
    for (size_t n = 0; n < length(env); n++)
        if (strncmp(env[n], "LD_PRELOAD=", 11) && strncmp(env[n], "TEST_CLOCK_FILE=", 16))
            with[kept++] = env[n];
    with[kept++] = preload_entry;
    with[kept++] = file_entry;
    with[kept] = NULL;
}

int execve(const char *path, char *const argv[], char *const env[]) {
    char *with[length(env) + 3];
    add_clock(env, with);
    return real_execve(path, argv, with);
}

int execv(const char *path, char *const argv[]) { return execve(path, argv, environ); }

int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const argv[], char *const env[]) {
    char *with[length(env) + 3];
    add_clock(env, with);
    return REAL(posix_spawn)(pid, path, actions, attributes, argv, with);
}
