/* The entry of a plugin on a node with a helper: hands the call over to the helper, or executes the plugin itself.
 *
 * A static program without a libc: it starts in a fraction of a millisecond, on any distribution. It has no memory but
 * its own buffers. Until it has said "go" (docs/adr/0040-a-helper-that-forks.md), each failure ends in the execution of
 * the plugin with the same stdin, so that no call depends on the helper. cni/helper/call.py is the other side.
 *
 * install.sh writes four lines behind the program: "# barewire-entry: BUNDLE", the plugin's name, the directory of the
 * entries, and the helper's socket. BUILD is the build of the bundle; the helper refuses another one's launcher.
 */
#include <fcntl.h>
#include <linux/auxvec.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef READY_SECONDS
#define READY_SECONDS 2 /* A helper that is stopped costs a call this long. */
#endif
#define FALLBACK (-1)
#define INHERITED 7

#if defined __x86_64__
__asm__(".globl _start\n_start: xor %ebp,%ebp\n mov %rsp,%rdi\n and $-16,%rsp\n call start\n");
static long sys6(long n, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "+a"(n) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return n;
}
#elif defined __aarch64__
__asm__(".globl _start\n_start: mov x29,#0\n mov x30,#0\n mov x0,sp\n bl start\n");
static long sys6(long n, long a, long b, long c, long d, long e, long f) {
    register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#endif
#define SYS(name, a, b, c, d, e) sys6(SYS_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

struct text { char *bytes; long size, used; }; /* `used` is more than `size` when something did not fit */
static char entry[2049], beside_bytes[4096], elsewhere_bytes[4096], request_bytes[1 << 16], copied[1 << 14];
static const char *bundle, *name, *folder, *helper;

static long length(const char *text) {
    long count = 0;
    while (text[count]) count++;
    return count;
}

static void add(struct text *to, const char *from, long count) {
    for (long at = 0; at < count; at++, to->used++)
        if (to->used < to->size) to->bytes[to->used] = from[at];
}

static void add_text(struct text *to, const char *from) { add(to, from, length(from)); }

static int written(int fd, const char *from, long count) {
    while (count > 0) {
        long done = SYS(write, fd, from, count, 0, 0);
        if (done <= 0) return 0;
        from += done, count -= done;
    }
    return 1;
}

static const char *variable(char **environment, const char *wanted) {
    for (; *environment; environment++) {
        long at = 0;
        while (wanted[at] && (*environment)[at] == wanted[at]) at++;
        if (!wanted[at] && (*environment)[at] == '=') return *environment + at + 1;
    }
    return "";
}

/* The four lines at the end of this file, which install.sh has written. */
static int read_entry(const char *self) {
    static const char mark[] = "# barewire-entry: ";
    long fd = SYS(openat, AT_FDCWD, "/proc/self/exe", O_RDONLY | O_CLOEXEC, 0, 0);
    if (fd < 0) fd = SYS(openat, AT_FDCWD, self, O_RDONLY | O_CLOEXEC, 0, 0);
    if (fd < 0) return 0;
    long size = SYS(lseek, fd, 0, SEEK_END, 0, 0), room = sizeof entry - 1;
    long got = SYS(pread64, fd, entry, room, size > room ? size - room : 0, 0);
    SYS(close, fd, 0, 0, 0, 0);
    if (got <= 0 || entry[got - 1] != '\n') return 0;
    const char **lines[] = {&helper, &folder, &name, &bundle};
    for (long at = got - 1, line = 0; line < 4; line++) {
        entry[at] = 0;
        while (at > 0 && entry[at - 1] != '\n') at--;
        if (at == 0) return 0;
        *lines[line] = entry + at--;
    }
    for (long at = 0; mark[at]; at++, bundle++)
        if (*bundle != mark[at]) return 0;
    return 1;
}

static int sent(int to, char *text, long size, const int *fds, long count) {
    union { char room[CMSG_SPACE(INHERITED * sizeof(int))]; struct cmsghdr header; } control = {0};
    struct iovec bytes = {text, size};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    control.header = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    for (int at = 0; at < count; at++) ((int *)CMSG_DATA(&control.header))[at] = fds[at];
    return SYS(sendmsg, to, &message, MSG_NOSIGNAL | MSG_DONTWAIT, 0, 0) == size;
}

/* Sends the request with the descriptors of what a process inherits, except stdin and stderr: what lies in the queue of a
   helper that is stopped stays open there, and a runtime waits for the end of stderr. */
static int handed_over(int to, char **environment) {
    struct text request = {request_bytes, sizeof request_bytes, 0};
    int fds[INHERITED], count = 0;
    for (const char *const *path = (const char *const[]){"/", ".", "/proc/self/ns/mnt", "/proc/self/ns/net", "/proc/self/ns/uts",
                                                         "/proc/self/ns/pid", "/proc/self/ns/user", 0}; *path; path++) {
        fds[count] = SYS(openat, AT_FDCWD, *path, (**path == '/' && (*path)[1] ? O_RDONLY : O_PATH) | O_CLOEXEC, 0, 0);
        if (fds[count++] < 0) return 0;
    }
    long mask = SYS(umask, 0, 0, 0, 0, 0);
    SYS(umask, mask, 0, 0, 0, 0);
    char octal[] = {'0' + (mask >> 6 & 7), '0' + (mask >> 3 & 7), '0' + (mask & 7), 0};
    for (const char *const *part = (const char *const[]){BUILD, name, octal, 0}; *part; part++)
        add(&request, *part, length(*part) + 1);
    for (; *environment; environment++) add(&request, *environment, length(*environment) + 1);
    return request.used <= request.size && sent(to, request.bytes, request.used, fds, count);
}

static int connected(void) {
    struct sockaddr_un address = {AF_UNIX, ""};
    struct text path = {address.sun_path, sizeof address.sun_path - 1, 0};
    struct ucred owner;
    int size = sizeof owner;
    add_text(&path, helper);
    long fd = SYS(socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, 0, 0);
    /* Not to wait: the queue of a helper that is stopped is full at some time. */
    if (fd < 3 || path.used > path.size || SYS(connect, fd, &address, sizeof address, 0, 0) < 0) return -1;
    return SYS(getsockopt, fd, SOL_SOCKET, SO_PEERCRED, &owner, &size) == 0 && owner.uid == 0 ? (int)fd : -1;
}

/* Copies the document, which the helper's child has sent as a file, to stdout. */
static int copied_out(int file) {
    for (long at = 0, got;; at += got) {
        got = SYS(pread64, file, copied, sizeof copied, at, 0);
        if (got <= 0) return got == 0;
        if (!written(1, copied, got)) return 0;
    }
}

/* The exit code of a call that is the child's. An answer is the code and a file; without one the child was killed.
   A child that says 'N' has done nothing for the call, nor will it. */
static int answered(int from, int child) {
    static const char killed[] = "{\"cniVersion\": \"1.0.0\", \"code\": 5, \"msg\": \"the process of this call was killed\", "
                                 "\"details\": \"see the node's log for the reason, such as a lack of memory; then try again\"}\n";
    unsigned long interrupt = 1UL << (SIGINT - 1);
    int interrupted = 0;
    struct { void *handler; unsigned long flags, restorer, mask; } present = {0};
    union { char room[CMSG_SPACE(sizeof(int))]; struct cmsghdr header; } control = {0};
    unsigned char code;
    struct iovec bytes = {&code, 1};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.room};
    SYS(rt_sigaction, SIGINT, 0, &present, sizeof present.mask, 0);
    if (present.handler == SIG_IGN) interrupt = 0; /* as whoever runs us in the background has it */
    struct pollfd waiting[] = {{from, POLLIN, 0}, {SYS(signalfd4, -1, &interrupt, sizeof interrupt, SFD_CLOEXEC, 0), POLLIN, 0}};
    while (!waiting[0].revents) {
        if (SYS(ppoll, waiting, 2, 0, 0, 0) < 0) break;
        if (waiting[1].revents) { /* The child does what the plugin would do. */
            SYS(read, waiting[1].fd, copied, sizeof copied, 0, 0);
            interrupted = 1;
            if (!waiting[0].revents) SYS(kill, child, SIGINT, 0, 0, 0);
        }
    }
    long got = SYS(recvmsg, from, &message, MSG_CMSG_CLOEXEC, 0, 0);
    if (got == 1 && code == 'N' && message.msg_controllen == 0 && !(message.msg_flags & MSG_CTRUNC)) {
        if (interrupted) SYS(kill, SYS(getpid, 0, 0, 0, 0, 0), SIGINT, 0, 0, 0); /* It is ours again. */
        return FALLBACK;
    }
    if (got != 1 || message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || message.msg_controllen < CMSG_LEN(sizeof(int)) || control.header.cmsg_type != SCM_RIGHTS) {
        written(1, killed, sizeof killed - 1);
        return 1;
    }
    if (!copied_out(*(int *)CMSG_DATA(&control.header))) return 1;
    SYS(sendto, from, "A", 1, MSG_NOSIGNAL, 0); /* Without this an ADD is undone. */
    return code;
}

/* From "go" on the call is the child's: it has not touched stdin before. A signal must not end us then. */
static int gone_to(int child, int by) {
    unsigned long caught = 1UL << (SIGINT - 1) | 1UL << (SIGPIPE - 1), before;
    SYS(rt_sigprocmask, SIG_BLOCK, &caught, &before, sizeof caught, 0);
    int code = sent(by, "G", 1, (const int[]){0, 2}, 2) ? answered(by, child) : FALLBACK;
    if (code == FALLBACK) SYS(rt_sigprocmask, SIG_SETMASK, &before, 0, sizeof before, 0);
    return code;
}

static int by_helper(char **environment) {
    struct { char kind; char pid[sizeof(int)]; } ready;
    struct timespec patience = {READY_SECONDS, 0};
    int child = 0;
    /* Without a command it is a person's call. A descriptor that is closed cannot be handed over. */
    if (!*variable(environment, "CNI_COMMAND")) return FALLBACK;
    for (int standard = 0; standard < 3; standard++)
        if (SYS(fcntl, standard, F_GETFD, 0, 0, 0) < 0) return FALLBACK;
    int fd = connected();
    if (fd < 0 || !handed_over(fd, environment)) return FALLBACK;
    struct pollfd waiting = {fd, POLLIN, 0};
    if (SYS(ppoll, &waiting, 1, &patience, 0, 0) != 1) return FALLBACK;
    if (SYS(recvfrom, fd, &ready, sizeof ready, MSG_DONTWAIT | MSG_TRUNC, 0) != sizeof ready || ready.kind != 'R') return FALLBACK;
    for (int at = 0; at < (int)sizeof child; at++) ((char *)&child)[at] = ready.pid[at];
    return child > 1 ? gone_to(child, fd) : FALLBACK;
}

static void execute(struct text *path, char **arguments, char **environment) {
    if (path->used >= path->size) return;
    char *own = arguments[0];
    arguments[0] = path->bytes;
    SYS(execve, path->bytes, arguments, environment, 0, 0);
    arguments[0] = own;
}

static int missing(void) {
    static char message[4096];
    struct text text = {message, sizeof message, 0};
    add_text(&text, "{\"cniVersion\": \"1.0.0\", \"code\": 5, \"msg\": \"");
    add_text(&text, folder ? folder : "the directory of this entry"), add_text(&text, "/");
    add_text(&text, bundle ? bundle : "a bundle"), add_text(&text, "/");
    add_text(&text, name ? name : "a plugin");
    add_text(&text, " is missing\", \"details\": \"run install.sh of Barewire again\"}\n");
    written(1, message, text.used < text.size ? text.used : text.size);
    return 1;
}

static int launched(char **arguments, char **environment, const char *self) {
    struct text beside = {beside_bytes, sizeof beside_bytes - 1, 0}, elsewhere = {elsewhere_bytes, sizeof elsewhere_bytes - 1, 0};
    if (!read_entry(self)) {
        bundle = name = folder = 0;
        return missing();
    }
    int code = by_helper(environment);
    if (code != FALLBACK) return code;
    long slash = length(self);
    while (slash > 0 && self[slash - 1] != '/') slash--;
    add(&beside, self, slash), add_text(&elsewhere, folder), add_text(&elsewhere, "/");
    for (struct text *path = &beside; path; path = path == &beside ? &elsewhere : 0) {
        add_text(path, bundle), add_text(path, "/"), add_text(path, name);
        execute(path, arguments, environment); /* The second one: it was called by a link that is elsewhere. */
    }
    return missing();
}

__attribute__((used)) void start(long *stack) {
    char **arguments = (char **)(stack + 1), **environment = arguments + stack[0] + 1, **after = environment;
    static char *none[] = {"", 0};
    const char *self = stack[0] ? arguments[0] : "";
    while (*after) after++;
    for (unsigned long *auxiliary = (unsigned long *)(after + 1); auxiliary[0] != AT_NULL; auxiliary += 2)
        if (auxiliary[0] == AT_EXECFN) self = (const char *)auxiliary[1];
    SYS(exit_group, launched(stack[0] ? arguments : none, environment, self), 0, 0, 0, 0);
    for (;;) {}
}
