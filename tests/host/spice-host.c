/*
 * spice-host: a real SPICE host for tests, without a virtual machine.
 *
 * It runs libspice-server with one character device, the stream port, and bridges that port to the
 * guest under test over a Unix socket, a pty, or both. There is no QXL device, so the stream is the
 * client's display channel 0.
 *
 * What it owns: the SPICE listening socket (127.0.0.1 only), the guest's transports, and the rule
 * that the port has one opener at a time. What it leaves to libspice-server: every byte of both
 * protocols. Events go to stdout as JSON lines, commands come from stdin, all logs go to stderr.
 *
 * Commands: quit | kick-guest | freeze | thaw | inject HEX
 * Events:   ready, guest-connected, guest-refused, guest-closed, client-connected,
 *           client-disconnected, to-guest, from-guest, frozen, thawed, injected, bad-command
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <glib-unix.h>
#include <glib.h>
#include <spice.h>
#include <spice/enums.h>
#include <spice/protocol.h>

/* Longest host-to-guest message that is shown in full in a to-guest event, in bytes. */
#define SHOWN_BYTES 256
/* How long a pty's hang-up waits for the guest to read what the host wrote last, in milliseconds:
 * a hang-up discards unread input, where a virtio port keeps it. */
#define DRAIN_STEP_MS 5
#define DRAIN_LIMIT_MS 500

enum transport { TRANSPORT_NONE, TRANSPORT_SOCKET, TRANSPORT_PTY };

static const char *const transport_names[] = { "none", "socket", "pty" };

static struct {
    /* The options. */
    int port;
    char *socket_path;
    char *pty_link;
    gboolean multi;

    GMainLoop *loop;
    FILE *events;
    SpiceServer *server;
    int clients;

    int spice_listener;
    int send_buffer;
    int socket_listener;
    int pty_master;
    int pty_inotify;
    char pty_slave[64];
    int pty_openers;

    /* The one opener. fd is -1 without one; for the pty it equals pty_master. */
    enum transport transport;
    int fd;
    guint opening; /* counts the openers, so that a late hang-up cannot hit the next one */
    guint watch;
    GIOCondition watched;
    bool saw_eof;
    bool hanging_up;
    int drain_left_ms;
    int drain_quiet;
    bool frozen;
    uint64_t bytes_read;
    /* How far the message that the server is reading has come: stream-device.h, StreamDevHeader. */
    uint8_t header[8];
    size_t header_read;
    uint32_t body_left;
} host = {
    .spice_listener = -1, .socket_listener = -1, .pty_master = -1, .pty_inotify = -1, .fd = -1,
};

static void drop_guest(const char *by);
static void pty_create(void);

/* ---- events and errors ------------------------------------------------------------------------ */

G_GNUC_NORETURN G_GNUC_PRINTF(1, 2) static void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("spice-host: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

/* One JSON line: the event's name, the monotonic time in seconds, and the members in FORMAT. */
G_GNUC_PRINTF(2, 3) static void emit(const char *event, const char *format, ...)
{
    va_list args;

    fprintf(host.events, "{\"event\":\"%s\",\"t\":%.6f", event, g_get_monotonic_time() / 1e6);
    va_start(args, format);
    vfprintf(host.events, format, args);
    va_end(args);
    fputs("}\n", host.events);
    fflush(host.events);
}

static void emit_plain(const char *event)
{
    emit(event, "%s", "");
}

/* ---- the event loop that libspice-server runs on: spice-core.h, SpiceCoreInterface -------------- */

struct SpiceTimer {
    SpiceTimerFunc func;
    void *opaque;
    guint source;
};

struct SpiceWatch {
    int fd;
    SpiceWatchFunc func;
    void *opaque;
    guint source;
};

static SpiceTimer *timer_add(SpiceTimerFunc func, void *opaque)
{
    SpiceTimer *timer = g_new0(SpiceTimer, 1);

    timer->func = func;
    timer->opaque = opaque;
    return timer;
}

static void timer_cancel(SpiceTimer *timer)
{
    if (timer->source != 0) {
        g_source_remove(timer->source);
        timer->source = 0;
    }
}

static gboolean timer_fired(gpointer data)
{
    SpiceTimer *timer = data;

    /* Cleared first: the function may start or remove this very timer. */
    timer->source = 0;
    timer->func(timer->opaque);
    return G_SOURCE_REMOVE;
}

static void timer_start(SpiceTimer *timer, uint32_t ms)
{
    timer_cancel(timer);
    timer->source = g_timeout_add_full(G_PRIORITY_DEFAULT, ms, timer_fired, timer, NULL);
}

static void timer_remove(SpiceTimer *timer)
{
    timer_cancel(timer);
    g_free(timer);
}

static gboolean watch_fired(gint fd, GIOCondition condition, gpointer data)
{
    SpiceWatch *watch = data;
    int event = 0;

    if (condition & (G_IO_IN | G_IO_HUP | G_IO_ERR)) {
        event |= SPICE_WATCH_EVENT_READ;
    }
    if (condition & G_IO_OUT) {
        event |= SPICE_WATCH_EVENT_WRITE;
    }
    watch->func(fd, event, watch->opaque);
    return G_SOURCE_CONTINUE;
}

static void watch_update_mask(SpiceWatch *watch, int event_mask)
{
    GIOCondition condition = 0;

    if (watch->source != 0) {
        g_source_remove(watch->source);
        watch->source = 0;
    }
    if (event_mask & SPICE_WATCH_EVENT_READ) {
        condition |= G_IO_IN;
    }
    if (event_mask & SPICE_WATCH_EVENT_WRITE) {
        condition |= G_IO_OUT;
    }
    if (condition != 0) {
        watch->source = g_unix_fd_add(watch->fd, condition, watch_fired, watch);
    }
}

static SpiceWatch *watch_add(int fd, int event_mask, SpiceWatchFunc func, void *opaque)
{
    SpiceWatch *watch = g_new0(SpiceWatch, 1);

    watch->fd = fd;
    watch->func = func;
    watch->opaque = opaque;
    watch_update_mask(watch, event_mask);
    return watch;
}

static void watch_remove(SpiceWatch *watch)
{
    watch_update_mask(watch, 0);
    g_free(watch);
}

/* A client is counted by its main channel; the other channels come and go with it. */
static void channel_event(int event, SpiceChannelEventInfo *info)
{
    if (info->type != SPICE_CHANNEL_MAIN) {
        return;
    }
    if (event == SPICE_CHANNEL_EVENT_INITIALIZED) {
        host.clients++;
        emit("client-connected", ",\"id\":%d,\"clients\":%d", info->connection_id, host.clients);
    } else if (event == SPICE_CHANNEL_EVENT_DISCONNECTED) {
        host.clients--;
        emit("client-disconnected", ",\"id\":%d,\"clients\":%d", info->connection_id, host.clients);
    }
}

static SpiceCoreInterface core = {
    .base = {
        .type = SPICE_INTERFACE_CORE,
        .description = "test host core",
        .major_version = SPICE_INTERFACE_CORE_MAJOR,
        .minor_version = SPICE_INTERFACE_CORE_MINOR,
    },
    .timer_add = timer_add,
    .timer_start = timer_start,
    .timer_cancel = timer_cancel,
    .timer_remove = timer_remove,
    .watch_add = watch_add,
    .watch_update_mask = watch_update_mask,
    .watch_remove = watch_remove,
    .channel_event = channel_event,
};

/* ---- the port: spice-char.h, SpiceCharDeviceInterface ------------------------------------------- */

static gboolean guest_ready(gint fd, GIOCondition condition, gpointer data);

/* Wait for CONDITION on the guest's descriptor; a hang-up is always watched for. */
static void watch_guest(GIOCondition condition)
{
    if (host.watch != 0 && host.watched == condition) {
        return;
    }
    if (host.watch != 0) {
        g_source_remove(host.watch);
    }
    host.watched = condition;
    host.watch = g_unix_fd_add(host.fd, condition | G_IO_HUP, guest_ready, NULL);
}

static void unwatch_guest(void)
{
    if (host.watch != 0) {
        g_source_remove(host.watch);
        host.watch = 0;
    }
}

static int port_write(SpiceCharDeviceInstance *sin G_GNUC_UNUSED, const uint8_t *buf, int len)
{
    GString *hex;
    ssize_t n;

    if (host.fd < 0 || host.hanging_up) {
        return len; /* nobody is there to read it */
    }
    n = write(host.fd, buf, len);
    if (n < 0) {
        /* 0 means "later": the server tries again by a timer. A broken transport shows as HUP. */
        return errno == EAGAIN || errno == EINTR ? 0 : len;
    }
    hex = g_string_new(NULL);
    for (ssize_t i = 0; n <= SHOWN_BYTES && i < n; i++) {
        g_string_append_printf(hex, "%02x", buf[i]);
    }
    emit("to-guest", ",\"size\":%zd,\"hex\":\"%s\"", n, hex->str);
    g_string_free(hex, TRUE);
    return n;
}

static uint32_t header_size(void)
{
    return host.header[4] | host.header[5] << 8 | host.header[6] << 16
           | (uint32_t)host.header[7] << 24;
}

/* Tell of every message whose last byte is among the LEN bytes at BUF, which the server reads now. */
static void follow_messages(const uint8_t *buf, size_t len)
{
    while (len > 0) {
        size_t n = sizeof(host.header) - host.header_read;

        if (n > 0) {
            n = MIN(n, len);
            memcpy(host.header + host.header_read, buf, n);
            host.header_read += n;
            host.body_left = host.header_read == sizeof(host.header) ? header_size() : 0;
        } else {
            n = MIN(host.body_left, len);
            host.body_left -= n;
        }
        buf += n;
        len -= n;
        if (host.header_read == sizeof(host.header) && host.body_left == 0) {
            emit("from-guest", ",\"type\":%d,\"size\":%" G_GUINT32_FORMAT,
                 host.header[2] | host.header[3] << 8, header_size());
            host.header_read = 0;
        }
    }
}

static int port_read(SpiceCharDeviceInstance *sin G_GNUC_UNUSED, uint8_t *buf, int len)
{
    ssize_t n;

    if (host.fd < 0 || host.frozen || host.hanging_up || len <= 0) {
        return 0;
    }
    n = read(host.fd, buf, len);
    if (n > 0) {
        host.bytes_read += n;
        follow_messages(buf, n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        host.saw_eof = true; /* a pty's master gives EIO, a reset socket ECONNRESET */
    }
    /* The server reads by itself when its flow control lets go: from then on listen again. */
    watch_guest(G_IO_IN);
    return n > 0 ? n : 0;
}

static gboolean drain_step(gpointer data G_GNUC_UNUSED)
{
    struct pollfd poll_master = { .fd = host.pty_master };
    int unread = 0;
    int slave;

    if (host.transport != TRANSPORT_PTY || !host.hanging_up) {
        return G_SOURCE_REMOVE;
    }
    poll(&poll_master, 1, 0);
    if (!(poll_master.revents & POLLHUP)) {
        slave = open(host.pty_slave, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
        if (slave >= 0) {
            ioctl(slave, FIONREAD, &unread);
            close(slave);
        }
    }
    /* Empty twice in a row: the kernel hands input to the slave from a work queue. */
    host.drain_quiet = unread == 0 ? host.drain_quiet + 1 : 0;
    host.drain_left_ms -= DRAIN_STEP_MS;
    if (host.drain_quiet < 2 && host.drain_left_ms > 0) {
        return G_SOURCE_CONTINUE;
    }
    drop_guest("host");
    return G_SOURCE_REMOVE;
}

static gboolean hang_up(gpointer opening)
{
    if (host.fd < 0 || host.hanging_up || GPOINTER_TO_UINT(opening) != host.opening) {
        return G_SOURCE_REMOVE;
    }
    if (host.transport == TRANSPORT_SOCKET) {
        drop_guest("host");
        return G_SOURCE_REMOVE;
    }
    host.hanging_up = true;
    host.drain_left_ms = DRAIN_LIMIT_MS;
    host.drain_quiet = 0;
    unwatch_guest();
    g_timeout_add(DRAIN_STEP_MS, drain_step, NULL);
    return G_SOURCE_REMOVE;
}

/* The server disables the port after a protocol error and enables it again at each port event.
 * Acted on from the loop, not from within the server's call. */
static void port_state(SpiceCharDeviceInstance *sin G_GNUC_UNUSED, int connected)
{
    if (!connected) {
        g_idle_add_full(G_PRIORITY_DEFAULT, hang_up, GUINT_TO_POINTER(host.opening), NULL);
    }
}

static const SpiceCharDeviceInterface port_interface = {
    .base = {
        .type = SPICE_INTERFACE_CHAR_DEVICE,
        .description = "test host stream port",
        .major_version = SPICE_INTERFACE_CHAR_DEVICE_MAJOR,
        .minor_version = SPICE_INTERFACE_CHAR_DEVICE_MINOR,
    },
    .state = port_state,
    .write = port_write,
    .read = port_read,
};

static SpiceCharDeviceInstance port = {
    .base = { .sif = &port_interface.base },
    .subtype = "port",
    .portname = "org.spice-space.stream.0",
};

/* ---- the guest ---------------------------------------------------------------------------------- */

static void guest_opened(enum transport transport, int fd)
{
    host.transport = transport;
    host.fd = fd;
    host.opening++;
    host.saw_eof = false;
    host.bytes_read = 0;
    host.header_read = 0;
    watch_guest(host.frozen ? 0 : G_IO_IN);
    emit("guest-connected", ",\"transport\":\"%s\"", transport_names[transport]);
    spice_server_port_event(&port, SPICE_PORT_EVENT_OPENED);
}

/* End the guest's connection; BY says who ended it, "guest" or "host". */
static void drop_guest(const char *by)
{
    enum transport transport = host.transport;
    int fd = host.fd;

    if (fd < 0) {
        return;
    }
    unwatch_guest();
    host.fd = -1;
    host.transport = TRANSPORT_NONE;
    host.hanging_up = false;
    spice_server_port_event(&port, SPICE_PORT_EVENT_CLOSED);
    emit("guest-closed", ",\"transport\":\"%s\",\"by\":\"%s\",\"read\":%" G_GUINT64_FORMAT,
         transport_names[transport], by, host.bytes_read);
    if (transport == TRANSPORT_SOCKET) {
        close(fd);
    } else if (strcmp(by, "host") == 0) {
        pty_create();
    } else {
        /* What the leaver wrote and the server did not take is lost, as on a virtio port. */
        tcflush(fd, TCIOFLUSH);
    }
}

static gboolean guest_ready(gint fd G_GNUC_UNUSED, GIOCondition condition,
                            gpointer data G_GNUC_UNUSED)
{
    uint64_t before = host.bytes_read;

    /* The server stops after a partial read, so it is woken for as long as it makes progress. */
    if ((condition & G_IO_IN) && !host.frozen) {
        spice_server_char_device_wakeup(&port);
    }
    if (host.fd < 0 || host.hanging_up || host.bytes_read != before) {
        return G_SOURCE_CONTINUE;
    }
    if (host.saw_eof || (condition & (G_IO_HUP | G_IO_ERR))) {
        drop_guest("guest");
    } else {
        watch_guest(0); /* flow control: port_read listens again */
    }
    return G_SOURCE_CONTINUE;
}

static gboolean socket_guest_waiting(gint listener, GIOCondition condition G_GNUC_UNUSED,
                                     gpointer data G_GNUC_UNUSED)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0) {
        return G_SOURCE_CONTINUE;
    }
    /* The opener may be gone already without our having read that. */
    if (host.transport == TRANSPORT_SOCKET) {
        struct pollfd opener = { .fd = host.fd };

        poll(&opener, 1, 0);
        while ((opener.revents & (POLLHUP | POLLERR)) && host.transport == TRANSPORT_SOCKET) {
            guest_ready(host.fd, G_IO_IN | G_IO_HUP, NULL);
        }
    }
    if (host.fd >= 0) {
        emit_plain("guest-refused");
        close(fd);
        return G_SOURCE_CONTINUE;
    }
    guest_opened(TRANSPORT_SOCKET, fd);
    return G_SOURCE_CONTINUE;
}

static void socket_create(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (strlen(host.socket_path) >= sizeof(address.sun_path)) {
        die("socket path is longer than %zu bytes", sizeof(address.sun_path) - 1);
    }
    strcpy(address.sun_path, host.socket_path);
    host.socket_listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (host.socket_listener < 0
        || bind(host.socket_listener, (struct sockaddr *)&address, sizeof(address)) < 0
        || listen(host.socket_listener, 8) < 0) {
        die("cannot listen on %s: %s", host.socket_path, strerror(errno));
    }
    g_unix_fd_add(host.socket_listener, G_IO_IN, socket_guest_waiting, NULL);
}

/* ---- the pty ------------------------------------------------------------------------------------ */

static void pty_opened(void)
{
    if (host.pty_openers++ > 0) {
        return;
    }
    if (host.fd >= 0) {
        emit_plain("guest-refused");
        pty_create(); /* hangs the newcomer up */
        return;
    }
    guest_opened(TRANSPORT_PTY, host.pty_master);
}

static void pty_closed(void)
{
    if (host.pty_openers == 0 || --host.pty_openers > 0) {
        return;
    }
    while (host.transport == TRANSPORT_PTY && !host.hanging_up) {
        guest_ready(host.fd, G_IO_IN | G_IO_HUP, NULL);
    }
}

/* poll() tells of a slave that was closed, but nothing of one that was opened: inotify does. */
static gboolean pty_touched(gint inotify, GIOCondition condition G_GNUC_UNUSED,
                            gpointer data G_GNUC_UNUSED)
{
    char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    struct pollfd master;
    ssize_t size = read(inotify, buffer, sizeof(buffer));

    for (char *at = buffer; size > 0 && at < buffer + size && inotify == host.pty_inotify;) {
        const struct inotify_event *event = (const struct inotify_event *)at;

        at += sizeof(*event) + event->len;
        if (event->mask & IN_OPEN) {
            pty_opened();
        } else if (event->mask & IN_CLOSE) {
            pty_closed();
        }
    }
    if (inotify != host.pty_inotify) {
        return G_SOURCE_REMOVE; /* the pty was replaced meanwhile */
    }
    /* Equal neighbouring events are joined into one: the master knows how it really stands. */
    master = (struct pollfd){ .fd = host.pty_master };
    poll(&master, 1, 0);
    if (!(master.revents & POLLHUP) && host.pty_openers == 0) {
        pty_opened();
    } else if ((master.revents & POLLHUP) && host.pty_openers > 0) {
        host.pty_openers = 1;
        pty_closed();
    }
    return inotify == host.pty_inotify ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

/* Make a new pty, point the link at it and only then hang up the old one, so that a guest that
 * opens the link again at once never meets the dead slave. */
static void pty_create(void)
{
    static guint source;
    int old_master = host.pty_master;
    int old_inotify = host.pty_inotify;
    g_autofree char *temporary = g_strconcat(host.pty_link, ".new", NULL);
    struct termios raw;
    int slave;

    host.pty_openers = 0;
    host.pty_master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (host.pty_master < 0 || grantpt(host.pty_master) < 0 || unlockpt(host.pty_master) < 0
        || ptsname_r(host.pty_master, host.pty_slave, sizeof(host.pty_slave)) != 0) {
        die("cannot make a pty: %s", strerror(errno));
    }
    /* Opened and closed once, so that from now on HUP means "no guest". */
    slave = open(host.pty_slave, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0 || tcgetattr(slave, &raw) < 0) {
        die("cannot open %s: %s", host.pty_slave, strerror(errno));
    }
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
    close(slave);

    host.pty_inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (host.pty_inotify < 0
        || inotify_add_watch(host.pty_inotify, host.pty_slave, IN_OPEN | IN_CLOSE) < 0) {
        die("cannot watch %s: %s", host.pty_slave, strerror(errno));
    }
    if (source != 0) {
        g_source_remove(source);
    }
    source = g_unix_fd_add(host.pty_inotify, G_IO_IN, pty_touched, NULL);

    unlink(temporary);
    if (symlink(host.pty_slave, temporary) < 0 || rename(temporary, host.pty_link) < 0) {
        die("cannot make the link %s: %s", host.pty_link, strerror(errno));
    }
    if (old_master >= 0) {
        close(old_inotify);
        close(old_master);
    }
}

/* ---- the clients -------------------------------------------------------------------------------- */

static gboolean client_waiting(gint listener, GIOCondition condition G_GNUC_UNUSED,
                               gpointer data G_GNUC_UNUSED)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd >= 0 && spice_server_add_client(host.server, fd, FALSE) != 0) {
        close(fd);
    }
    return G_SOURCE_CONTINUE;
}

/* Listening here and not in the library: its own way to a free port is deprecated. */
static int spice_listen(void)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(host.port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t size = sizeof(address);
    int one = 1;

    host.spice_listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (host.spice_listener < 0) {
        die("cannot make a socket: %s", strerror(errno));
    }
    setsockopt(host.spice_listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    /* Whoever is accepted inherits it. The kernel's own choice depends on its congestion control: a
     * second of a slow line with one, a twentieth with another (tcp(7), tcp_wmem). */
    if (host.send_buffer > 0) {
        setsockopt(host.spice_listener, SOL_SOCKET, SO_SNDBUF, &host.send_buffer,
                   sizeof(host.send_buffer));
    }
    if (bind(host.spice_listener, (struct sockaddr *)&address, sizeof(address)) < 0
        || listen(host.spice_listener, 16) < 0
        || getsockname(host.spice_listener, (struct sockaddr *)&address, &size) < 0) {
        die("cannot listen on 127.0.0.1:%d: %s", host.port, strerror(errno));
    }
    g_unix_fd_add(host.spice_listener, G_IO_IN, client_waiting, NULL);
    return ntohs(address.sin_port);
}

static void server_create(void)
{
    if (host.multi) {
        g_setenv("SPICE_DEBUG_ALLOW_MC", "1", TRUE);
    }
    host.server = spice_server_new();
    spice_server_set_noauth(host.server);
    spice_server_set_name(host.server, "spice-host");
    if (spice_server_init(host.server, &core) != 0) {
        die("spice_server_init failed");
    }
    if (spice_server_add_interface(host.server, &port.base) != 0) {
        die("libspice-server refused the stream port");
    }
    spice_server_vm_start(host.server);
}

/* ---- the commands ------------------------------------------------------------------------------- */

/* Write raw bytes to the guest as though the host had sent them. */
static void inject(const char *hex)
{
    size_t digits = strlen(hex);
    g_autofree uint8_t *bytes = g_malloc(digits / 2 + 1);
    ssize_t written = -1;

    for (size_t i = 0; i < digits; i++) {
        if (!g_ascii_isxdigit(hex[i]) || digits % 2 != 0) {
            emit("bad-command", ",\"why\":\"inject needs pairs of hex digits\"%s", "");
            return;
        }
        bytes[i / 2] = (uint8_t)(bytes[i / 2] << 4 | g_ascii_xdigit_value(hex[i]));
    }
    if (host.fd >= 0) {
        written = write(host.fd, bytes, digits / 2);
    }
    emit("injected", ",\"size\":%zd", written);
}

static void freeze(bool frozen)
{
    host.frozen = frozen;
    if (host.fd >= 0 && !host.hanging_up) {
        watch_guest(frozen ? 0 : G_IO_IN);
    }
    emit_plain(frozen ? "frozen" : "thawed");
}

static void run_command(const char *command)
{
    if (strcmp(command, "quit") == 0) {
        g_main_loop_quit(host.loop);
    } else if (strcmp(command, "kick-guest") == 0) {
        drop_guest("host");
    } else if (strcmp(command, "freeze") == 0) {
        freeze(true);
    } else if (strcmp(command, "thaw") == 0) {
        freeze(false);
    } else if (g_str_has_prefix(command, "inject ")) {
        inject(command + strlen("inject "));
    } else {
        emit("bad-command", ",\"why\":\"unknown command\"%s", "");
    }
}

static gboolean command_waiting(GIOChannel *input, GIOCondition condition G_GNUC_UNUSED,
                                gpointer data G_GNUC_UNUSED)
{
    GIOStatus status;

    do {
        g_autofree char *line = NULL;

        status = g_io_channel_read_line(input, &line, NULL, NULL, NULL);
        if (status == G_IO_STATUS_NORMAL) {
            run_command(g_strstrip(line));
        }
    } while (status == G_IO_STATUS_NORMAL);
    if (status == G_IO_STATUS_AGAIN) {
        return G_SOURCE_CONTINUE;
    }
    g_main_loop_quit(host.loop);
    return G_SOURCE_REMOVE;
}

static void listen_for_commands(void)
{
    GIOChannel *input = g_io_channel_unix_new(STDIN_FILENO);

    g_io_channel_set_encoding(input, NULL, NULL);
    g_io_channel_set_flags(input, G_IO_FLAG_NONBLOCK, NULL);
    g_io_add_watch(input, G_IO_IN | G_IO_HUP | G_IO_ERR, command_waiting, NULL);
    g_io_channel_unref(input);
}

/* ---- the program -------------------------------------------------------------------------------- */

static gboolean quit_by_signal(gpointer data G_GNUC_UNUSED)
{
    g_main_loop_quit(host.loop);
    return G_SOURCE_CONTINUE;
}

/* stdout carries events only: whatever a library prints there goes to stderr. */
static void take_stdout(void)
{
    int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);

    if (fd < 0 || (host.events = fdopen(fd, "w")) == NULL) {
        die("stdout is not open");
    }
    dup2(STDERR_FILENO, STDOUT_FILENO);
}

static void die_with_parent(void)
{
    pid_t parent = getppid();

    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) {
        die("the parent is gone");
    }
}

static void parse_options(int argc, char **argv)
{
    const GOptionEntry entries[] = {
        { "port", 0, 0, G_OPTION_ARG_INT, &host.port,
          "TCP port for SPICE clients on 127.0.0.1; 0, the default, takes a free one", "N" },
        { "send-buffer", 0, 0, G_OPTION_ARG_INT, &host.send_buffer,
          "size of a client's send buffer; 0, the default, leaves it to the kernel", "BYTES" },
        { "socket", 0, 0, G_OPTION_ARG_FILENAME, &host.socket_path,
          "offer the port to the guest on a Unix socket", "PATH" },
        { "pty", 0, 0, G_OPTION_ARG_FILENAME, &host.pty_link,
          "offer the port to the guest on a pty, with a symlink to its slave", "LINK" },
        { "multi", 0, 0, G_OPTION_ARG_NONE, &host.multi, "allow several clients at once", NULL },
        { 0 },
    };
    g_autoptr(GOptionContext) context = g_option_context_new("- a SPICE host for tests");
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        die("%s", error->message);
    }
    if (host.socket_path == NULL && host.pty_link == NULL) {
        die("need --socket, --pty or both");
    }
    if (host.port < 0 || host.port > 65535) {
        die("--port is not between 0 and 65535");
    }
}

int main(int argc, char **argv)
{
    int spice_port;

    die_with_parent();
    signal(SIGPIPE, SIG_IGN);
    take_stdout();
    parse_options(argc, argv);

    host.loop = g_main_loop_new(NULL, FALSE);
    g_unix_signal_add(SIGTERM, quit_by_signal, NULL);
    g_unix_signal_add(SIGINT, quit_by_signal, NULL);
    server_create();
    spice_port = spice_listen();
    if (host.socket_path != NULL) {
        socket_create();
    }
    if (host.pty_link != NULL) {
        pty_create();
    }
    listen_for_commands();
    emit("ready", ",\"spice_port\":%d", spice_port);
    g_main_loop_run(host.loop);

    if (host.socket_path != NULL) {
        unlink(host.socket_path);
    }
    if (host.pty_link != NULL) {
        unlink(host.pty_link);
    }
    spice_server_destroy(host.server);
    return 0;
}
