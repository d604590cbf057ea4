/* Lets calls that write fail for a while, in processes that preload this: cc -shared -fPIC -o faults.so faults.c -ldl

OVIS_FAULT_FILE holds a struct fault, which a test changes while the processes run; only files below its root are
concerned. Processes with "stub_training" on their command line are left alone: they do not try again. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct fault {
    double until; /* seconds since 1970 */
    int error;
    int function; /* its number in the enumeration below */
    long count;   /* calls that have failed */
    char root[1000];
};

enum { WRITE, FSYNC, RENAME, OPEN, MKDIR, UNLINK, UTIME };

static struct fault *fault;

__attribute__((constructor)) static void load(void) {
    char words[4096] = "";
    int file = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t size = read(file, words, sizeof words - 1);
    close(file);
    if (size > 0 && memmem(words, size, "stub_training", 13) != NULL)
        return;
    const char *path = getenv("OVIS_FAULT_FILE");
    file = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return;
    void *memory = mmap(NULL, sizeof *fault, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    fault = memory == MAP_FAILED ? NULL : memory;
}

static int active(int function) {
    if (fault == NULL || fault->function != function)
        return 0;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec + now.tv_nsec / 1e9 < fault->until;
}

static int fails(int function, const char *path) {
    if (!active(function) || path == NULL || strncmp(path, fault->root, strlen(fault->root)) != 0)
        return 0;
    __sync_fetch_and_add(&fault->count, 1);
    errno = fault->error;
    return 1;
}

static int handle_fails(int function, int handle) {
    char link[64], path[4096];
    if (!active(function))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return fails(function, path);
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, #name))

ssize_t write(int handle, const void *data, size_t size) {
    if (!handle_fails(WRITE, handle))
        return REAL(write, ssize_t(*)(int, const void *, size_t))(handle, data, size);
    return -1;
}

int fsync(int handle) {
    return handle_fails(FSYNC, handle) ? -1 : REAL(fsync, int (*)(int))(handle);
}

int rename(const char *from, const char *to) {
    return fails(RENAME, to) ? -1 : REAL(rename, int (*)(const char *, const char *))(from, to);
}

static int is_for_writing(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT); }

#define DEFINE_OPEN(name)                                                                                              \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        if (is_for_writing(flags) && fails(OPEN, path))                                                                \
            return -1;                                                                                                 \
        return REAL(name, int (*)(const char *, int, ...))(path, flags, mode);                                         \
    }

DEFINE_OPEN(open)
DEFINE_OPEN(open64)

int mkdir(const char *path, mode_t mode) {
    return fails(MKDIR, path) ? -1 : REAL(mkdir, int (*)(const char *, mode_t))(path, mode);
}

int unlink(const char *path) {
    return fails(UNLINK, path) ? -1 : REAL(unlink, int (*)(const char *))(path);
}

int utimensat(int folder, const char *path, const struct timespec times[2], int flags) {
    int (*real)(int, const char *, const struct timespec *, int) = dlsym(RTLD_NEXT, "utimensat");
    return fails(UTIME, path) ? -1 : real(folder, path, times, flags);
}
