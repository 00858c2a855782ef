/* A library for LD_PRELOAD: at the n-th call of a kind on a file below a folder it kills the process tree,
 * fails with an errno, or waits; it also imitates an NFS client and a wrong clock.
 *
 * All of it is steered by a page that processes share: `struct control`, shim.py has the same one. Without
 * ATTACK_CONTROL in the environment, or before `attack_arm`, every call passes unchanged.
 *
 * Why not strace's injection: strace costs two context switches at every call of a process (a point takes
 * three times as long), counts calls of all threads and children apart, cannot tear a write in half, knows
 * paths of arguments only as they are written, and ptrace is refused in many containers.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#undef stat
#undef lstat
#undef fstatat

/* ---- the page ------------------------------------------------------------------------------------- */

enum kind { OPEN, CREATE, READ, WRITE, FSYNC, CLOSE, RENAME, RENAMEAT2, LINK, SYMLINK, UNLINK, RMDIR, MKDIR,
            CHMOD, UTIME, TRUNCATE, STAT, READLINK, OPENDIR };
static const char *const NAMES[] = { "open", "create", "read", "write", "fsync", "close", "rename", "renameat2",
                                     "link", "symlink", "unlink", "rmdir", "mkdir", "chmod", "utime", "truncate",
                                     "stat", "readlink", "opendir" };
enum action { NOTHING, KILL_TREE, KILL_CALLER, FAIL, FAIL_ON, FAIL_AFTER, PAUSE };
#define PIDS 512

struct control {
    int64_t counter;   /* calls seen so far, of kinds in `mask` */
    int64_t target;    /* the call to act on, from 1; 0: none */
    int64_t mask;      /* bit per kind */
    int64_t clock;     /* seconds that this host's clock is ahead */
    int32_t action;    /* at the target; FAIL_ON: from it on; FAIL_AFTER: the call is done, its answer lost */
    int32_t error;     /* errno of a failure */
    int32_t state;     /* 1: a call waits; whoever writes 2 lets it go on */
    int32_t fired;     /* how often something was done */
    int32_t logged;    /* write "kind path" of each call to <control>.log */
    int32_t silly;     /* NFS: a file with `held` in its path is open elsewhere on this client */
    int32_t stale;     /* NFS: an open file whose last name is gone is ESTALE */
    int32_t cached;    /* NFS: ms for which attributes and links are remembered */
    int32_t folding;   /* names differ by more than case */
    int32_t pids;
    int32_t pid[PIDS]; /* processes that use this page */
    char prefix[1024]; /* the folder, without links; empty: nothing is counted */
    char held[256];
    char wanted[256];  /* a part of the path of calls that count; empty: all */
};

static struct control *page;
static char page_path[PATH_MAX], library[PATH_MAX];
static int log_descriptor = -1;
static __thread int busy;

static void enlist(void) {
    if (!page) return;
    int at = __atomic_fetch_add(&page->pids, 1, __ATOMIC_SEQ_CST);
    if (at < PIDS) page->pid[at] = getpid();
}

/* From now on this process, and whatever it starts, follows the page in this file. */
int attack_arm(const char *path) {
    int descriptor = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (descriptor < 0) return -1;
    void *found = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    syscall(SYS_close, descriptor);
    if (found == MAP_FAILED) return -1;
    snprintf(page_path, sizeof page_path, "%s", path);
    page = found;
    if (page->logged) {
        char log[PATH_MAX + 8];
        snprintf(log, sizeof log, "%s.log", path);
        log_descriptor = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
    enlist();
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    Dl_info info;
    if (dladdr((void *)attack_arm, &info)) snprintf(library, sizeof library, "%s", info.dli_fname);
    pthread_atfork(NULL, NULL, enlist);
    const char *path = getenv("ATTACK_CONTROL");
    if (path && *path) attack_arm(path);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* ---- which calls count, and what happens then ------------------------------------------------------- */

/* The absolute path of what a call works on; 0 where that is not below the folder. */
static int below(int directory, const char *path, char *out) {
    if (!page || busy || !page->prefix[0]) return 0;
    char base[PATH_MAX];
    if (path && path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else {
        char link[64];
        if (directory == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
        if (size <= 0) return 0;
        base[size] = 0;
        if (path && *path) snprintf(out, PATH_MAX, "%.2000s/%.2000s", base, path);
        else snprintf(out, PATH_MAX, "%s", base);
    }
    size_t size = strlen(page->prefix);
    return strncmp(out, page->prefix, size) == 0 && (out[size] == '/' || out[size] == 0);
}

static void kill_tree(void) {
    int self = getpid(), count = page->pids < PIDS ? page->pids : PIDS;
    for (int i = 0; i < count; i++)
        if (page->pid[i] != self) syscall(SYS_kill, page->pid[i], SIGKILL);
    syscall(SYS_kill, self, SIGKILL);
    for (;;) pause();
}

static void await(void) {
    __atomic_store_n(&page->state, 1, __ATOMIC_SEQ_CST);
    struct timespec little = { 0, 500000 };
    while (__atomic_load_n(&page->state, __ATOMIC_SEQ_CST) == 1) syscall(SYS_nanosleep, &little, NULL);
}

/* What to do at this call: NOTHING, KILL_*, FAIL or FAIL_AFTER. Waits here where it has to wait. */
static enum action hit(enum kind kind, const char *path) {
    if (!(page->mask >> kind & 1)) return NOTHING;
    if (page->wanted[0] && !strstr(path, page->wanted)) return NOTHING;
    int64_t number = __atomic_add_fetch(&page->counter, 1, __ATOMIC_SEQ_CST);
    if (page->logged && log_descriptor >= 0) {
        char line[PATH_MAX + 32];
        int size = snprintf(line, sizeof line, "%s %s\n", NAMES[kind], path + strlen(page->prefix));
        syscall(SYS_write, log_descriptor, line, size);
    }
    if (!page->target || number < page->target || (number > page->target && page->action != FAIL_ON)) return NOTHING;
    __atomic_add_fetch(&page->fired, 1, __ATOMIC_SEQ_CST);
    if (page->action == PAUSE) { await(); return NOTHING; }
    return page->action == FAIL_ON ? FAIL : page->action;
}

/* Before a call on a path; -1 where it fails. KILL_* comes before the call takes place. */
static int before(enum kind kind, const char *path, int *after) {
    enum action action = hit(kind, path);
    if (action == KILL_TREE) kill_tree();
    if (action == KILL_CALLER) { syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause(); }
    if (action == FAIL) { errno = page->error; return -1; }
    *after = action == FAIL_AFTER;
    return 0;
}

/* The answer is lost after the call has been done. */
#define ANSWER(result) do { __typeof__(result) r_ = (result); \
        if (after && r_ != (__typeof__(result))-1) { errno = page->error; return (__typeof__(result))-1; } return r_; } while (0)

/* ---- NFS: attributes that are remembered --------------------------------------------------------------- */

struct remembered { char path[1024]; int64_t until; int follow, failed, size; struct stat64 status; char link[256]; };
#define REMEMBERED 256
static struct remembered memory[REMEMBERED];
static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;

static int64_t monotonic_ms(void) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct remembered *slot(const char *path, int follow) {
    unsigned hash = follow;
    for (const char *c = path; *c; c++) hash = hash * 31 + (unsigned char)*c;
    return &memory[hash % REMEMBERED];
}

static int recall(const char *path, int follow, struct remembered *out) {
    if (!page->cached) return 0;
    pthread_mutex_lock(&memory_lock);
    struct remembered *found = slot(path, follow);
    int good = found->until > monotonic_ms() && found->follow == follow && strcmp(found->path, path) == 0;
    if (good) *out = *found;
    pthread_mutex_unlock(&memory_lock);
    return good;
}

static void remember(const char *path, int follow, int failed, const struct stat64 *status, const char *link, int size) {
    if (!page->cached || strlen(path) >= 1024 || size > 256) return;
    pthread_mutex_lock(&memory_lock);
    struct remembered *found = slot(path, follow);
    snprintf(found->path, sizeof found->path, "%.1023s", path);
    found->until = monotonic_ms() + page->cached;
    found->follow = follow, found->failed = failed, found->size = size;
    if (status) found->status = *status;
    if (link && size > 0) memcpy(found->link, link, size);
    pthread_mutex_unlock(&memory_lock);
}

/* This client's own change of a folder: the server's answer shows whether others changed it, too. */
static void forget(const char *path) {
    if (!page || !page->cached) return;
    const char *slash = strrchr(path, '/');
    size_t parent = slash ? (size_t)(slash - path) : strlen(path);
    pthread_mutex_lock(&memory_lock);
    for (int i = 0; i < REMEMBERED; i++)
        if (strncmp(memory[i].path, path, parent) == 0) memory[i].until = 0;
    pthread_mutex_unlock(&memory_lock);
}

/* An open file that another host has removed or replaced. */
static int gone(int descriptor) {
    struct stat64 status;
    if (!page || busy || !page->stale) return 0;
    if (syscall(SYS_fstat, descriptor, &status) != 0 || !S_ISREG(status.st_mode) || status.st_nlink) return 0;
    errno = ESTALE;
    return 1;
}

/* ---- a filesystem that does not tell case apart ---------------------------------------------------------- */

/* `path` with each component below the folder as it is spelled on disk, where it is there in any case. */
static void fold(char *path) {
    if (!page->folding) return;
    char done[PATH_MAX], rest[PATH_MAX];
    size_t size = strlen(page->prefix);
    snprintf(done, sizeof done, "%s", page->prefix);
    snprintf(rest, sizeof rest, "%s", path + size);
    busy++;
    char *state = NULL;
    for (char *part = strtok_r(rest, "/", &state); part; part = strtok_r(NULL, "/", &state)) {
        char spelled[NAME_MAX + 1];
        snprintf(spelled, sizeof spelled, "%.255s", part);
        DIR *folder = opendir(done);
        for (struct dirent *entry; folder && (entry = readdir(folder));)
            if (strcasecmp(entry->d_name, part) == 0) snprintf(spelled, sizeof spelled, "%.255s", entry->d_name);
        if (folder) closedir(folder);
        size_t end = strlen(done);
        snprintf(done + end, sizeof done - end, "/%s", spelled);
    }
    busy--;
    snprintf(path, PATH_MAX, "%s", done);
}

/* ---- calls on a path ------------------------------------------------------------------------------------- */

/* Sets `full`, `in` and `after`; ends the call where it fails. */
#define ON(kind, directory, path) \
    char full[PATH_MAX]; int after = 0, in = below(directory, path, full); \
    if (in) { fold(full); if (before(kind, full, &after)) return -1; }
#define CHANGED() do { if (in) forget(full); } while (0)
#define PATH(path) (in && page->folding ? full : (path))
#define AT(directory) (in && page->folding ? AT_FDCWD : (directory))

static int opened(int directory, const char *path, int flags, mode_t mode) {
    REAL(int, "openat64", int, const char *, int, ...);
    ON((flags & (O_CREAT | O_TMPFILE)) ? CREATE : OPEN, directory, path);
    if (flags & O_CREAT) CHANGED();
    ANSWER(real(AT(directory), PATH(path), flags, mode));
}
#define MODE(flags) mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int openat(int d, const char *path, int flags, ...) { MODE(flags) return opened(d, path, flags, mode); }
int openat64(int d, const char *path, int flags, ...) { MODE(flags) return opened(d, path, flags, mode); }

/* The other name of a call with two. */
static const char *second(int *directory, const char *path, char *out) {
    if (!page || !page->folding || !below(*directory, path, out)) return path;
    fold(out);
    *directory = AT_FDCWD;
    return out;
}

/* Removing a name of a file that is open on this client: NFS gives it another one, until it is closed. */
static int silly(const char *full) {
    static int number;
    if (!page->silly || !page->held[0] || !strstr(full, page->held)) return 0;
    const char *slash = strrchr(full, '/');
    if (strncmp(slash, "/.nfs", 5) == 0) { errno = EBUSY; return -1; }
    char other[PATH_MAX];
    snprintf(other, sizeof other, "%.*s/.nfs%016x%s", (int)(slash - full), full, __atomic_add_fetch(&number, 1, __ATOMIC_SEQ_CST), page->held);
    return syscall(SYS_renameat, AT_FDCWD, full, AT_FDCWD, other) == 0 ? 1 : -1;
}

static int renamed(enum kind kind, int d1, const char *from, int d2, const char *to, unsigned flags) {
    ON(kind, d1, from);
    char other[PATH_MAX];
    CHANGED();
    if (in && below(d2, to, other)) forget(other);
    to = second(&d2, to, other);
    int result = syscall(SYS_renameat2, AT(d1), PATH(from), d2, to, flags);
    ANSWER(result);
}
int rename(const char *from, const char *to) { return renamed(RENAME, AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int d1, const char *from, int d2, const char *to) { return renamed(RENAME, d1, from, d2, to, 0); }
int renameat2(int d1, const char *from, int d2, const char *to, unsigned flags) { return renamed(RENAMEAT2, d1, from, d2, to, flags); }

int linkat(int d1, const char *from, int d2, const char *to, int flags) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    ON(LINK, d2, to);
    char other[PATH_MAX];
    CHANGED();
    from = second(&d1, from, other);
    ANSWER(real(d1, from, AT(d2), PATH(to), flags));
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
int symlinkat(const char *target, int d, const char *path) {
    REAL(int, "symlinkat", const char *, int, const char *);
    ON(SYMLINK, d, path);
    CHANGED();
    ANSWER(real(target, AT(d), PATH(path)));
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }
int unlinkat(int d, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    ON(flags & AT_REMOVEDIR ? RMDIR : UNLINK, d, path);
    CHANGED();
    int kept = in && !(flags & AT_REMOVEDIR) ? silly(full) : 0;
    if (kept) return kept < 0 ? -1 : 0;
    ANSWER(real(AT(d), PATH(path), flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int mkdirat(int d, const char *path, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    ON(MKDIR, d, path);
    CHANGED();
    ANSWER(real(AT(d), PATH(path), mode));
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
int fchmodat(int d, const char *path, mode_t mode, int flags) {
    REAL(int, "fchmodat", int, const char *, mode_t, int);
    ON(CHMOD, d, path);
    CHANGED();
    ANSWER(real(AT(d), PATH(path), mode, flags));
}
int chmod(const char *path, mode_t mode) { return fchmodat(AT_FDCWD, path, mode, 0); }
int utimensat(int d, const char *path, const struct timespec times[2], int flags) {
    REAL(int, "utimensat", int, const char *, const struct timespec *, int);
    ON(UTIME, d, path);
    CHANGED();
    ANSWER(real(AT(d), PATH(path), times, flags));
}
int truncate64(const char *path, off64_t size) {
    REAL(int, "truncate64", const char *, off64_t);
    ON(TRUNCATE, AT_FDCWD, path);
    ANSWER(real(PATH(path), size));
}

static int status_of(int d, const char *path, struct stat64 *out, int flags) {
    REAL(int, "fstatat64", int, const char *, struct stat64 *, int);
    char full[PATH_MAX];
    int after = 0, in = path && *path && below(d, path, full), follow = !(flags & AT_SYMLINK_NOFOLLOW);
    struct remembered found;
    if (!in) return real(d, path, out, flags);
    fold(full);
    if (before(STAT, full, &after)) return -1;
    if (recall(full, follow, &found)) {
        if (found.failed) { errno = found.failed; return -1; }
        *out = found.status;
        return 0;
    }
    int result = real(AT(d), PATH(path), out, flags);
    remember(full, follow, result ? errno : 0, out, NULL, 0);
    return result;
}
int fstatat64(int d, const char *path, struct stat64 *out, int flags) { return status_of(d, path, out, flags); }
int fstatat(int d, const char *path, struct stat *out, int flags) { return status_of(d, path, (struct stat64 *)out, flags); }
int stat64(const char *path, struct stat64 *out) { return status_of(AT_FDCWD, path, out, 0); }
int stat(const char *path, struct stat *out) { return status_of(AT_FDCWD, path, (struct stat64 *)out, 0); }
int lstat64(const char *path, struct stat64 *out) { return status_of(AT_FDCWD, path, out, AT_SYMLINK_NOFOLLOW); }
int lstat(const char *path, struct stat *out) { return status_of(AT_FDCWD, path, (struct stat64 *)out, AT_SYMLINK_NOFOLLOW); }

ssize_t readlinkat(int d, const char *path, char *out, size_t size) {
    REAL(ssize_t, "readlinkat", int, const char *, char *, size_t);
    char full[PATH_MAX];
    int after = 0, in = below(d, path, full);
    struct remembered found;
    if (!in) return real(d, path, out, size);
    fold(full);
    if (before(READLINK, full, &after)) return -1;
    if (recall(full, 2, &found)) {
        if (found.failed) { errno = found.failed; return -1; }
        size_t some = (size_t)found.size < size ? (size_t)found.size : size;
        memcpy(out, found.link, some);
        return some;
    }
    ssize_t result = real(AT(d), PATH(path), out, size);
    remember(full, 2, result < 0 ? errno : 0, NULL, out, result < 0 ? 0 : result);
    return result;
}
ssize_t readlink(const char *path, char *out, size_t size) { return readlinkat(AT_FDCWD, path, out, size); }

DIR *opendir(const char *path) {
    REAL(DIR *, "opendir", const char *);
    char full[PATH_MAX];
    int after = 0, in = below(AT_FDCWD, path, full);
    if (in) { fold(full); if (before(OPENDIR, full, &after)) return NULL; }
    return real(PATH(path));
}

/* ---- calls on a descriptor ---------------------------------------------------------------------------------- */

static __thread int torn = -1;

/* A write that is hit is half done: killed after the half, or short, and its next one fails. */
static int half(int fd, const void *data, size_t size, off64_t at, ssize_t *result) {
    char full[PATH_MAX];
    if (torn == fd) { torn = -1; errno = page->error; *result = -1; return 1; }
    if (!below(fd, NULL, full)) return 0;
    enum action action = hit(WRITE, full);
    if (action == NOTHING) return 0;
    size_t some = size / 2;
    ssize_t done = 0;
    if (some && action != FAIL_AFTER)
        done = at < 0 ? syscall(SYS_write, fd, data, some) : syscall(SYS_pwrite64, fd, data, some, at);
    if (action == KILL_TREE) kill_tree();
    if (action == KILL_CALLER) { syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause(); }
    errno = page->error;
    *result = done > 0 ? done : -1;
    if (done > 0) torn = fd;
    return 1;
}
ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    ssize_t result;
    return half(fd, data, size, -1, &result) ? result : real(fd, data, size);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    ssize_t result;
    return half(fd, data, size, at, &result) ? result : real(fd, data, size, at);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

#define ON_FD(kind) char full[PATH_MAX]; int after = 0; \
    if (below(fd, NULL, full) && before(kind, full, &after)) return -1;

ssize_t sendfile64(int fd, int from, off64_t *at, size_t size) {
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    ON_FD(WRITE)
    return real(fd, from, at, size);
}
ssize_t sendfile(int fd, int from, off_t *at, size_t size) { return sendfile64(fd, from, at, size); }
ssize_t copy_file_range(int from, off64_t *in, int fd, off64_t *out, size_t size, unsigned flags) {
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    ON_FD(WRITE)
    return real(from, in, fd, out, size, flags);
}
ssize_t read(int fd, void *data, size_t size) {
    REAL(ssize_t, "read", int, void *, size_t);
    ON_FD(READ)
    return gone(fd) ? -1 : real(fd, data, size);
}
ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    ON_FD(READ)
    return gone(fd) ? -1 : real(fd, data, size, at);
}
ssize_t pread(int fd, void *data, size_t size, off_t at) { return pread64(fd, data, size, at); }
int fsync(int fd) { REAL(int, "fsync", int); ON_FD(FSYNC) ANSWER(real(fd)); }
int fdatasync(int fd) { REAL(int, "fdatasync", int); ON_FD(FSYNC) ANSWER(real(fd)); }
int fchmod(int fd, mode_t mode) { REAL(int, "fchmod", int, mode_t); ON_FD(CHMOD) ANSWER(real(fd, mode)); }
int futimens(int fd, const struct timespec times[2]) { REAL(int, "futimens", int, const struct timespec *); ON_FD(UTIME) ANSWER(real(fd, times)); }
int ftruncate64(int fd, off64_t size) { REAL(int, "ftruncate64", int, off64_t); ON_FD(TRUNCATE) ANSWER(real(fd, size)); }
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

/* A failing close has closed: what NFS reports there is the fate of earlier writes. */
int close(int fd) {
    REAL(int, "close", int);
    char full[PATH_MAX];
    int after = 0, failed = below(fd, NULL, full) && before(CLOSE, full, &after);
    int number = errno, result = real(fd);
    if (torn == fd) torn = -1;
    if (failed || after) { errno = failed ? number : page->error; return -1; }
    return result;
}

/* ---- the clock, and what is started ------------------------------------------------------------------------- */

int clock_gettime(clockid_t clock, struct timespec *out) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int result = real(clock, out);
    if (page && page->clock && clock == CLOCK_REALTIME && result == 0) out->tv_sec += page->clock;
    return result;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec, out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

/* Children follow the same page, whatever environment they are given. No malloc: this may be after vfork. */
int execve(const char *path, char *const arguments[], char *const environment[]) {
    REAL(int, "execve", const char *, char *const *, char *const *);
    char preload[PATH_MAX + 16], control[PATH_MAX + 24];
    char *changed[2048];
    int count = 0;
    if (!page) return real(path, arguments, environment);
    snprintf(preload, sizeof preload, "LD_PRELOAD=%s", library);
    snprintf(control, sizeof control, "ATTACK_CONTROL=%s", page_path);
    for (char *const *each = environment; each && *each && count < 2040; each++)
        if (strncmp(*each, "LD_PRELOAD=", 11) && strncmp(*each, "ATTACK_CONTROL=", 15)) changed[count++] = *each;
    changed[count++] = preload, changed[count++] = control, changed[count] = NULL;
    return real(path, arguments, changed);
}
