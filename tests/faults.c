/* Loaded before the C library: the n-th operation on a file below some folders fails or kills.

   Counted are, by bit of `kinds`: 1 writes and truncations, 2 flushes, 4 renames and links,
   8 opens. A write that fails has written half before. Armed by `faults_arm`, or for a whole
   process by HEADSTART_FAULTS="kinds:nth:error:lasting:folder[:folder]"; error 0 is SIGKILL. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, FLUSH = 2, RENAME = 4, OPEN = 8 };

static int kinds, fault, lasting;
static long nth;
static char folders[4 * PATH_MAX];
static atomic_long seen;

void faults_arm(int kinds_, long nth_, int error, int lasting_, const char *folders_) {
    nth = nth_, fault = error, lasting = lasting_;
    snprintf(folders, sizeof folders, "%s", folders_);
    atomic_store(&seen, 0);
    kinds = kinds_;
}

long faults_seen(void) { return atomic_load(&seen); }

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("HEADSTART_FAULTS");
    int wanted, error, all, at = 0;
    long number;
    if (text && sscanf(text, "%d:%ld:%d:%d:%n", &wanted, &number, &error, &all, &at) == 4)
        faults_arm(wanted, number, error, all, text + at);
}

static int below(const char *path) {
    for (const char *folder = folders; *folder;) {
        size_t size = strcspn(folder, ":");
        if (!strncmp(path, folder, size) && (path[size] == '/' || !path[size])) return 1;
        folder += size + (folder[size] == ':');
    }
    return 0;
}

/* Whether this operation is to fail. */
static int hit(int kind, const char *path) {
    if (!(kinds & kind) || !below(path)) return 0;
    long number = atomic_fetch_add(&seen, 1) + 1;
    return number == nth || (lasting && number > nth);
}

static int hit_at(int kind, int folder, const char *path) {
    char whole[2 * PATH_MAX], link[64];
    if (!(kinds & kind)) return 0;
    if (path[0] == '/') return hit(kind, path);
    snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
    ssize_t size = readlink(link, whole, PATH_MAX - 1);
    if (size < 0) return 0;
    snprintf(whole + size, sizeof whole - size, "/%s", path);
    return hit(kind, whole);
}

static int hit_fd(int kind, int fd) {
    char path[PATH_MAX], link[64];
    if (!(kinds & kind)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return hit(kind, path);
}

static int fail(void) {
    if (!fault) kill(getpid(), SIGKILL);
    errno = fault;
    return -1;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *from, size_t size) {
    REAL(write);
    if (!hit_fd(WRITE, fd)) return real(fd, from, size);
    if (size > 1) (void)!real(fd, from, size / 2);
    return fail();
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *from, size_t size, offset_type at) { \
        REAL(name); \
        if (!hit_fd(WRITE, fd)) return real(fd, from, size, at); \
        if (size > 1) (void)!real(fd, from, size / 2, at); \
        return fail(); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    if (!hit_fd(WRITE, fd)) return real(fd, parts, count);
    if (count > 1) (void)!real(fd, parts, count / 2);
    return fail();
}

#define ON_FD(name, kind, parameters, arguments) \
    int name parameters { \
        REAL(name); \
        return hit_fd(kind, fd) ? fail() : real arguments; \
    }
ON_FD(ftruncate, WRITE, (int fd, off_t size), (fd, size))
ON_FD(ftruncate64, WRITE, (int fd, off64_t size), (fd, size))
ON_FD(fsync, FLUSH, (int fd), (fd))
ON_FD(fdatasync, FLUSH, (int fd), (fd))

#define TO_PATH(name, parameters, arguments, folder) \
    int name parameters { \
        REAL(name); \
        return hit_at(RENAME, folder, to) ? fail() : real arguments; \
    }
TO_PATH(rename, (const char *from, const char *to), (from, to), AT_FDCWD)
TO_PATH(link, (const char *from, const char *to), (from, to), AT_FDCWD)
TO_PATH(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), b)
TO_PATH(renameat2, (int a, const char *from, int b, const char *to, unsigned f), (a, from, b, to, f), b)
TO_PATH(linkat, (int a, const char *from, int b, const char *to, int f), (a, from, b, to, f), b)

static mode_t mode_of(int flags, va_list rest) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPENING(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = mode_of(flags, rest); \
        va_end(rest); \
        return hit_at(OPEN, AT_FDCWD, path) ? fail() : real(path, flags, mode); \
    }
#define OPENING_AT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = mode_of(flags, rest); \
        va_end(rest); \
        return hit_at(OPEN, folder, path) ? fail() : real(folder, path, flags, mode); \
    }
OPENING(open)
OPENING(open64)
OPENING_AT(openat)
OPENING_AT(openat64)

#define CREATING(name) \
    int name(const char *path, mode_t mode) { \
        REAL(name); \
        return hit_at(OPEN, AT_FDCWD, path) ? fail() : real(path, mode); \
    }
CREATING(creat)
CREATING(creat64)

#define FOPENING(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(name); \
        return hit_at(OPEN, AT_FDCWD, path) ? (fail(), NULL) : real(path, mode); \
    }
FOPENING(fopen)
FOPENING(fopen64)
