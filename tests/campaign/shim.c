/*
 * What a disk and a clock may do to a process, for one that is started with LD_PRELOAD: the nth write, sync, truncate,
 * rename or open of the files below a folder fails, every change of them is recorded, and the time of day is another.
 *
 * _shim.py builds it and says what the arguments are. Without orders it hands every call on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, TRUNCATE = 4, RENAME = 8, OPEN = 16, UNLINK = 32, MARK = 64, LINK = 128 };
enum { PATH = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile int armed, recording = -1;
static volatile int64_t shift_ns;
static char with[PATH], without[PATH];
static unsigned calls;
static int error;
static long nth, times, seen, failed;

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* --- orders, by ctypes -------------------------------------------------------------------------------------------- */

void shim_watch(const char *part, const char *but) {
    pthread_mutex_lock(&lock);
    snprintf(with, PATH, "%s", part);
    snprintf(without, PATH, "%s", but);
    pthread_mutex_unlock(&lock);
}

void shim_fail(unsigned which, int number, long first, long count) {
    pthread_mutex_lock(&lock);
    calls = which, error = number, nth = first, times = count, seen = failed = 0;
    armed = 1;
    pthread_mutex_unlock(&lock);
}

void shim_stop(void) { armed = 0; }
long shim_seen(void) { return seen; }
long shim_failed(void) { return failed; }
void shim_record(int fd) { recording = fd; }
void shim_shift(double seconds) { shift_ns = (int64_t)(seconds * 1e9); }

/* --- which calls --------------------------------------------------------------------------------------------------- */

static int watched(const char *path) {
    return with[0] && strstr(path, with) && !(without[0] && strstr(path, without));
}

static int path_of(int fd, char *path) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(name, path, PATH - 1);
    path[size > 0 ? size : 0] = 0;
    return size > 0;
}

/* Whether this call is one that fails. The lock is held. */
static int fails(unsigned which) {
    if (!armed || !(calls & which)) return 0;
    seen++;
    if (seen < nth || (times >= 0 && seen >= nth + times)) return 0;
    failed++;
    errno = error;
    return 1;
}

static ssize_t raw_write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(fd, data, size);
}

static void put(const void *data, size_t size) {
    for (const char *at = data; size;) {
        ssize_t done = raw_write(recording, at, size);
        if (done <= 0) return;
        at += done, size -= (size_t)done;
    }
}

static void record(uint8_t which, const char *path, int64_t offset, const void *data, uint64_t size) {
    if (recording < 0) return;
    int before = errno;
    uint16_t length = (uint16_t)strlen(path);
    put(&which, sizeof which), put(&length, sizeof length), put(&offset, sizeof offset), put(&size, sizeof size);
    put(path, length), put(data, size);
    errno = before;
}

void shim_mark(long number) {
    pthread_mutex_lock(&lock);
    record(MARK, "", number, "", 0);
    pthread_mutex_unlock(&lock);
}

/* --- writes --------------------------------------------------------------------------------------------------------- */

static ssize_t written(int fd, const void *data, size_t size, int64_t offset) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    char path[PATH];
    if ((!armed && recording < 0) || fd == recording || !path_of(fd, path) || !watched(path))
        return offset < 0 ? raw_write(fd, data, size) : real(fd, data, size, offset);
    pthread_mutex_lock(&lock);
    ssize_t done = -1;
    if (!fails(WRITE)) {
        int64_t at = offset < 0 ? lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR) : offset;
        done = offset < 0 ? raw_write(fd, data, size) : real(fd, data, size, offset);
        if (done > 0) record(WRITE, path, at, data, (uint64_t)done);
    } else if (error == ENOSPC && size > 1 && failed == 1) {
        /* A disk that fills takes what fits; the next call meets the error. */
        done = offset < 0 ? raw_write(fd, data, size / 2) : real(fd, data, size / 2, offset);
        if (times == 1) times = 2;
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int fd, const void *data, size_t size) { return written(fd, data, size, -1); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset); }

/* --- syncs and truncates --------------------------------------------------------------------------------------------- */

#define BY_HANDLE(name, which, parameters, arguments, offset) \
    int name parameters { \
        static int (*real) parameters; \
        char path[PATH]; \
        if (!real) real = (int (*) parameters)dlsym(RTLD_NEXT, #name); \
        if ((!armed && recording < 0) || !path_of(fd, path) || !watched(path)) return real arguments; \
        pthread_mutex_lock(&lock); \
        int result = fails(which) ? -1 : real arguments; \
        if (!result) record(which, path, offset, "", 0); \
        pthread_mutex_unlock(&lock); \
        return result; \
    }

BY_HANDLE(fsync, SYNC, (int fd), (fd), 0)
BY_HANDLE(fdatasync, SYNC, (int fd), (fd), 0)
BY_HANDLE(ftruncate, TRUNCATE, (int fd, off_t size), (fd, size), size)
BY_HANDLE(ftruncate64, TRUNCATE, (int fd, off_t size), (fd, size), size)

/* --- names ------------------------------------------------------------------------------------------------------------ */

#define BY_NAME(name, which, parameters, arguments, data) \
    int name parameters { \
        static int (*real) parameters; \
        if (!real) real = (int (*) parameters)dlsym(RTLD_NEXT, #name); \
        if ((!armed && recording < 0) || !watched(path)) return real arguments; \
        pthread_mutex_lock(&lock); \
        int result = fails(which) ? -1 : real arguments; \
        if (!result) record(which, path, 0, data, strlen(data)); \
        pthread_mutex_unlock(&lock); \
        return result; \
    }

BY_NAME(rename, RENAME, (const char *path, const char *to), (path, to), to)
BY_NAME(link, LINK, (const char *path, const char *to), (path, to), to)
BY_NAME(linkat, LINK, (int from, const char *path, int in, const char *to, int flags), (from, path, in, to, flags), to)
BY_NAME(unlink, UNLINK, (const char *path), (path), "")
BY_NAME(remove, UNLINK, (const char *path), (path), "")

static int opened(int folder, const char *path, int flags, mode_t mode) {
    REAL(int, "openat", int, const char *, int, mode_t);
    if ((!armed && recording < 0) || !(flags & O_CREAT) || !watched(path)) return real(folder, path, flags, mode);
    pthread_mutex_lock(&lock);
    int anew = (flags & O_TRUNC) || access(path, F_OK);
    int fd = fails(OPEN) ? -1 : real(folder, path, flags, mode);
    if (fd >= 0 && anew) record(OPEN, path, 0, "", 0);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN_BY(name, parameters, folder) \
    int name parameters { \
        mode_t mode = 0; \
        if (flags & (O_CREAT | __O_TMPFILE)) { \
            va_list more; \
            va_start(more, flags); \
            mode = va_arg(more, mode_t); \
            va_end(more); \
        } \
        return opened(folder, path, flags, mode); \
    }

OPEN_BY(open, (const char *path, int flags, ...), AT_FDCWD)
OPEN_BY(open64, (const char *path, int flags, ...), AT_FDCWD)
OPEN_BY(openat, (int folder, const char *path, int flags, ...), folder)
OPEN_BY(openat64, (int folder, const char *path, int flags, ...), folder)

/* --- the time of day ---------------------------------------------------------------------------------------------------- */

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int result = real(clock, now);
    if (!result && clock == CLOCK_REALTIME && shift_ns) {
        int64_t ns = now->tv_sec * 1000000000LL + now->tv_nsec + shift_ns;
        now->tv_sec = ns / 1000000000LL, now->tv_nsec = ns % 1000000000LL;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec, now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *at) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (at) *at = exact.tv_sec;
    return exact.tv_sec;
}
