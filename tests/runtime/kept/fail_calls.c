// Makes one call to the disk fail: the `at`-th of those that name a file of a session, or write to
// one. MPSPLIT_FAULTS is a file that this process maps, an int64 [2] for each rank: at, and how many
// there were since it was set. No `at` is 0.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static volatile int64_t* control;
static volatile char ours[65536];  // descriptors of files of sessions

__attribute__((constructor)) static void begin(void) {
    const char* path = getenv("MPSPLIT_FAULTS");
    const char* rank = getenv("OMPI_COMM_WORLD_RANK");
    if (!path || !rank) return;
    int (*really)(const char*, int, ...) = dlsym(RTLD_NEXT, "open");
    const int fd = really(path, O_RDWR);
    void* all = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (all != MAP_FAILED) control = (int64_t*)all + 2 * atoi(rank);
}

static int fails(void) {
    if (!control || control[0] == 0) return 0;
    const int64_t seen = __sync_add_and_fetch(&control[1], 1);
    if (seen != control[0]) return 0;
    errno = ENOSPC;
    return 1;
}

static int of_session(const char* path) { return path && strstr(path, "/sessions/") != NULL; }

#define OPEN(name)                                                          \
    int name(const char* path, int flags, ...) {                            \
        static int (*really)(const char*, int, ...);                        \
        if (!really) really = dlsym(RTLD_NEXT, #name);                      \
        va_list more;                                                       \
        va_start(more, flags);                                              \
        const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                       \
        const int mine = of_session(path);                                  \
        if (mine && fails()) return -1;                                     \
        const int fd = really(path, flags, mode);                           \
        if (fd >= 0 && fd < 65536) ours[fd] = (char)mine;                   \
        return fd;                                                          \
    }
OPEN(open)
OPEN(open64)

#define CALL(result, name, parameters, arguments, mine)    \
    result name parameters {                               \
        static result(*really) parameters;                 \
        if (!really) really = dlsym(RTLD_NEXT, #name);     \
        if ((mine) && fails()) return -1;                  \
        return really arguments;                           \
    }
#define KNOWN(fd) (fd >= 0 && fd < 65536 && ours[fd])
CALL(ssize_t, write, (int fd, const void* data, size_t bytes), (fd, data, bytes), KNOWN(fd))
CALL(int, fsync, (int fd), (fd), KNOWN(fd))
CALL(int, mkdir, (const char* path, mode_t mode), (path, mode), of_session(path))
CALL(int, rename, (const char* from, const char* to), (from, to), of_session(to))
CALL(int, unlink, (const char* path), (path), of_session(path))
