/*
 * spice-probe: a real SPICE client for tests, without a window and without a DISPLAY.
 *
 * It connects to a SPICE server with spice-client-glib, opens the main, display and cursor
 * channels, and tells what a person at the client would see: surfaces, updates, the pointer. It
 * draws nothing and sends no input. Events go to stdout as JSON lines with the CLOCK_MONOTONIC
 * time "t" in seconds, commands come from stdin, all logs go to stderr.
 *
 * Commands: shot PATH (binary PPM of the display) | cursor PATH (PAM, RGB_ALPHA) | quit
 * Events:   connected, disconnected, channel, mouse-mode, primary-create, primary-destroy, mark,
 *           invalidate, streaming, cursor-set, cursor-move, cursor-hide, cursor-reset,
 *           shot, shot-failed, cursor, cursor-failed, bad-command
 * Exit:     0 after quit or once a connection that worked has ended, 1 if it never came up.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/prctl.h>

#include <glib-unix.h>
#include <glib.h>
#include <spice-client.h>

/* How many pixels --sample reads at most. */
#define SAMPLE_LIMIT 64
/* How many bytes of a cursor image a cursor-set event shows in hex; the rest is in its hash. */
#define CURSOR_SHOWN_BYTES 64

static struct {
    char *uri;
    int display_id; /* which display channel "shot" saves */
    /* Which pixels an invalidate event shows; none without a step and a count. */
    struct {
        int x, y, step, count;
    } sample;

    GMainLoop *loop;
    FILE *events;
    SpiceSession *session;
    SpiceChannel *display; /* that channel once it is there; the session owns it */
    bool connected;
    bool ended;
    int exit_status;

    /* The last cursor image as the client holds it: 4 bytes a pixel in the order R, G, B, A. */
    int cursor_width;
    int cursor_height;
    GBytes *cursor;
} probe;

/* ---- events and errors ------------------------------------------------------------------------ */

G_GNUC_NORETURN G_GNUC_PRINTF(1, 2) static void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("spice-probe: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

/* One JSON line: the event's name, the monotonic time in seconds, and the members in FORMAT. */
G_GNUC_PRINTF(2, 3) static void emit(const char *event, const char *format, ...)
{
    va_list args;

    fprintf(probe.events, "{\"event\":\"%s\",\"t\":%.6f", event, g_get_monotonic_time() / 1e6);
    va_start(args, format);
    vfprintf(probe.events, format, args);
    va_end(args);
    fputs("}\n", probe.events);
    fflush(probe.events);
}

static void emit_plain(const char *event)
{
    emit(event, "%s", "");
}

/* TEXT as a JSON string with its quotes; the caller frees it. */
static char *json_string(const char *text)
{
    GString *out = g_string_new("\"");

    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') {
            g_string_append_c(out, '\\');
            g_string_append_c(out, *text);
        } else if ((unsigned char)*text < 0x20) {
            g_string_append_printf(out, "\\u%04x", *text);
        } else {
            g_string_append_c(out, *text);
        }
    }
    g_string_append_c(out, '"');
    return g_string_free(out, FALSE);
}

static void emit_failure(const char *event, const char *why)
{
    g_autofree char *quoted = json_string(why);

    emit(event, ",\"why\":%s", quoted);
}

/* ---- the connection ----------------------------------------------------------------------------- */

static const char *channel_event_name(SpiceChannelEvent event)
{
    g_autoptr(GEnumClass) names = g_type_class_ref(SPICE_TYPE_CHANNEL_EVENT);
    GEnumValue *value = g_enum_get_value(names, event);

    /* The nick is a static string of the library. */
    return value != NULL ? value->value_nick : "unknown";
}

/* The first reason is the one that counts: more of them follow while the channel goes down. */
static void connection_ended(const char *reason)
{
    g_autofree char *quoted = json_string(reason);

    if (probe.ended) {
        return;
    }
    probe.ended = true;
    if (probe.connected) {
        emit("disconnected", ",\"reason\":%s", quoted);
    } else {
        fprintf(stderr, "spice-probe: cannot connect to %s: %s\n", probe.uri, reason);
        probe.exit_status = 1;
    }
    g_main_loop_quit(probe.loop);
}

static void main_channel_event(SpiceChannel *channel, SpiceChannelEvent event,
                               gpointer data G_GNUC_UNUSED)
{
    const GError *error = spice_channel_get_error(channel);

    if (event == SPICE_CHANNEL_OPENED) {
        probe.connected = true;
        emit_plain("connected");
    } else if (event != SPICE_CHANNEL_NONE && event != SPICE_CHANNEL_SWITCHING) {
        connection_ended(error != NULL ? error->message : channel_event_name(event));
    }
}

/* The main channel's end speaks for the client; a side channel's is only told. */
static void side_channel_event(SpiceChannel *channel, SpiceChannelEvent event,
                               gpointer data G_GNUC_UNUSED)
{
    int type;
    int id;

    g_object_get(channel, "channel-type", &type, "channel-id", &id, NULL);
    emit("channel", ",\"type\":\"%s\",\"channel\":%d,\"state\":\"%s\"",
         spice_channel_type_to_string(type), id, channel_event_name(event));
}

static void mouse_update(SpiceChannel *channel, gpointer data G_GNUC_UNUSED)
{
    int mode;

    g_object_get(channel, "mouse-mode", &mode, NULL);
    emit("mouse-mode", ",\"mode\":\"%s\"", mode == SPICE_MOUSE_MODE_CLIENT ? "client" : "server");
}

/* ---- the display -------------------------------------------------------------------------------- */

static int channel_id(SpiceChannel *channel)
{
    int id;

    g_object_get(channel, "channel-id", &id, NULL);
    return id;
}

static void primary_create(SpiceChannel *channel, gint format, gint width, gint height,
                           gint stride G_GNUC_UNUSED, gint shmid G_GNUC_UNUSED,
                           gpointer pixels G_GNUC_UNUSED, gpointer data G_GNUC_UNUSED)
{
    emit("primary-create", ",\"channel\":%d,\"w\":%d,\"h\":%d,\"format\":%d", channel_id(channel),
         width, height, format);
}

static void primary_destroy(SpiceChannel *channel, gpointer data G_GNUC_UNUSED)
{
    emit("primary-destroy", ",\"channel\":%d", channel_id(channel));
}

/* Write a digit for each pixel of the sample to BITS: 1 if it is bright, 0 if it is dark, as the
 * surface shows it now; the empty string without a sample or where the surface is too small. */
static void sample_pixels(SpiceChannel *channel, char bits[SAMPLE_LIMIT + 1])
{
    int last = probe.sample.x + probe.sample.step * (probe.sample.count - 1);
    SpiceDisplayPrimary primary;

    bits[0] = '\0';
    if (probe.sample.count == 0 || !spice_display_channel_get_primary(channel, 0, &primary)
        || primary.format != SPICE_SURFACE_FMT_32_xRGB || last >= primary.width
        || probe.sample.y >= primary.height) {
        return;
    }
    for (int i = 0; i < probe.sample.count; i++) {
        int x = probe.sample.x + i * probe.sample.step;
        const uint8_t *pixel = primary.data + (ssize_t)probe.sample.y * primary.stride + 4 * x;

        bits[i] = pixel[1] >= 128 ? '1' : '0'; /* green */
    }
    bits[probe.sample.count] = '\0';
}

static void invalidate(SpiceChannel *channel, gint x, gint y, gint width, gint height,
                       gpointer data G_GNUC_UNUSED)
{
    char bits[SAMPLE_LIMIT + 1];

    sample_pixels(channel, bits);
    emit("invalidate",
         ",\"channel\":%d,\"x\":%d,\"y\":%d,\"w\":%d,\"h\":%d,\"bits\":\"%s\"",
         channel_id(channel), x, y, width, height, bits);
}

static void mark(SpiceChannel *channel, gint on, gpointer data G_GNUC_UNUSED)
{
    emit("mark", ",\"channel\":%d,\"on\":%s", channel_id(channel), on ? "true" : "false");
}

/* Emitted when one stream covers the whole display, and when it ends. NULL: no overlay window. */
static gpointer streaming_mode(SpiceChannel *channel, gboolean on, gpointer data G_GNUC_UNUSED)
{
    emit("streaming", ",\"channel\":%d,\"on\":%s", channel_id(channel), on ? "true" : "false");
    return NULL;
}

/* Write HEADER and BODY to PATH at once: a reader sees the whole file or none. */
static bool write_file(const char *path, const char *header, const GByteArray *body)
{
    g_autofree char *temporary = g_strconcat(path, ".new", NULL);
    FILE *file = fopen(temporary, "wbe");
    bool good;

    if (file == NULL) {
        return false;
    }
    good = fputs(header, file) >= 0 && fwrite(body->data, 1, body->len, file) == body->len;
    good = fclose(file) == 0 && good;
    return good && rename(temporary, path) == 0;
}

static void shot(const char *path)
{
    g_autofree char *quoted = json_string(path);
    g_autofree char *header = NULL;
    g_autoptr(GByteArray) body = NULL;
    SpiceDisplayPrimary primary;

    if (probe.display == NULL || !spice_display_channel_get_primary(probe.display, 0, &primary)) {
        emit_failure("shot-failed", "there is no primary surface");
        return;
    }
    if (primary.format != SPICE_SURFACE_FMT_32_xRGB
        && primary.format != SPICE_SURFACE_FMT_32_ARGB) {
        emit_failure("shot-failed", "the primary surface does not have 32 bits a pixel");
        return;
    }
    header = g_strdup_printf("P6\n%d %d\n255\n", primary.width, primary.height);
    body = g_byte_array_sized_new(3 * primary.width * primary.height);
    for (int y = 0; y < primary.height; y++) {
        const uint8_t *row = primary.data + (ssize_t)y * primary.stride;

        for (int x = 0; x < primary.width; x++) {
            const uint8_t rgb[] = { row[4 * x + 2], row[4 * x + 1], row[4 * x] };

            g_byte_array_append(body, rgb, sizeof(rgb));
        }
    }
    if (!write_file(path, header, body)) {
        emit_failure("shot-failed", strerror(errno));
        return;
    }
    emit("shot", ",\"path\":%s,\"w\":%d,\"h\":%d", quoted, primary.width, primary.height);
}

/* ---- the cursor --------------------------------------------------------------------------------- */

static void cursor_set(SpiceChannel *channel, gint width, gint height, gint hot_x, gint hot_y,
                       gpointer rgba, gpointer data G_GNUC_UNUSED)
{
    size_t size = rgba != NULL ? 4 * (size_t)width * (size_t)height : 0;
    g_autofree char *hash = g_compute_checksum_for_data(G_CHECKSUM_SHA256, rgba, size);
    g_autoptr(GString) hex = g_string_new(NULL);

    g_clear_pointer(&probe.cursor, g_bytes_unref);
    probe.cursor = g_bytes_new(rgba, size);
    probe.cursor_width = width;
    probe.cursor_height = height;
    for (size_t i = 0; i < MIN(size, CURSOR_SHOWN_BYTES); i++) {
        g_string_append_printf(hex, "%02x", ((const uint8_t *)rgba)[i]);
    }
    emit("cursor-set",
         ",\"channel\":%d,\"w\":%d,\"h\":%d,\"hot_x\":%d,\"hot_y\":%d,\"size\":%zu,"
         "\"sha256\":\"%s\",\"hex\":\"%s\"",
         channel_id(channel), width, height, hot_x, hot_y, size, hash, hex->str);
}

static void cursor_move(SpiceChannel *channel, gint x, gint y, gpointer data G_GNUC_UNUSED)
{
    emit("cursor-move", ",\"channel\":%d,\"x\":%d,\"y\":%d", channel_id(channel), x, y);
}

static void cursor_hide(SpiceChannel *channel, gpointer data G_GNUC_UNUSED)
{
    emit("cursor-hide", ",\"channel\":%d", channel_id(channel));
}

static void cursor_reset(SpiceChannel *channel, gpointer data G_GNUC_UNUSED)
{
    emit("cursor-reset", ",\"channel\":%d", channel_id(channel));
}

static void write_cursor(const char *path)
{
    g_autofree char *quoted = json_string(path);
    g_autofree char *header = NULL;
    g_autoptr(GByteArray) body = NULL;

    if (probe.cursor == NULL || g_bytes_get_size(probe.cursor) == 0) {
        emit_failure("cursor-failed", "there is no cursor image");
        return;
    }
    header = g_strdup_printf("P7\nWIDTH %d\nHEIGHT %d\nDEPTH 4\nMAXVAL 255\n"
                             "TUPLTYPE RGB_ALPHA\nENDHDR\n",
                             probe.cursor_width, probe.cursor_height);
    body = g_bytes_unref_to_array(g_bytes_ref(probe.cursor));
    if (!write_file(path, header, body)) {
        emit_failure("cursor-failed", strerror(errno));
        return;
    }
    emit("cursor", ",\"path\":%s,\"w\":%d,\"h\":%d", quoted, probe.cursor_width,
         probe.cursor_height);
}

/* ---- the channels ------------------------------------------------------------------------------- */

static void display_channel_new(SpiceChannel *channel)
{
    if (channel_id(channel) == probe.display_id) {
        probe.display = channel;
        g_object_add_weak_pointer(G_OBJECT(channel), (gpointer *)&probe.display);
    }
    g_signal_connect(channel, "display-primary-create", G_CALLBACK(primary_create), NULL);
    g_signal_connect(channel, "display-primary-destroy", G_CALLBACK(primary_destroy), NULL);
    g_signal_connect(channel, "display-invalidate", G_CALLBACK(invalidate), NULL);
    g_signal_connect(channel, "display-mark", G_CALLBACK(mark), NULL);
    g_signal_connect(channel, "streaming-mode", G_CALLBACK(streaming_mode), NULL);
}

static void cursor_channel_new(SpiceChannel *channel)
{
    g_signal_connect(channel, "cursor-set", G_CALLBACK(cursor_set), NULL);
    g_signal_connect(channel, "cursor-move", G_CALLBACK(cursor_move), NULL);
    g_signal_connect(channel, "cursor-hide", G_CALLBACK(cursor_hide), NULL);
    g_signal_connect(channel, "cursor-reset", G_CALLBACK(cursor_reset), NULL);
}

static void channel_new(SpiceSession *session G_GNUC_UNUSED, SpiceChannel *channel,
                        gpointer data G_GNUC_UNUSED)
{
    if (SPICE_IS_MAIN_CHANNEL(channel)) {
        g_signal_connect(channel, "channel-event", G_CALLBACK(main_channel_event), NULL);
        g_signal_connect(channel, "main-mouse-update", G_CALLBACK(mouse_update), NULL);
        return; /* the session connects it */
    }
    if (SPICE_IS_DISPLAY_CHANNEL(channel)) {
        display_channel_new(channel);
    } else if (SPICE_IS_CURSOR_CHANNEL(channel)) {
        cursor_channel_new(channel);
    } else {
        return;
    }
    g_signal_connect(channel, "channel-event", G_CALLBACK(side_channel_event), NULL);
    spice_channel_connect(channel);
}

static void session_connect(void)
{
    probe.session = spice_session_new();
    g_object_set(probe.session, "uri", probe.uri, "enable-audio", FALSE, "enable-smartcard", FALSE,
                 "enable-usbredir", FALSE, NULL);
    g_signal_connect(probe.session, "channel-new", G_CALLBACK(channel_new), NULL);
    if (!spice_session_connect(probe.session)) {
        die("cannot connect to %s: not a usable URI", probe.uri);
    }
}

/* ---- the commands ------------------------------------------------------------------------------- */

static void run_command(const char *command)
{
    if (strcmp(command, "quit") == 0) {
        g_main_loop_quit(probe.loop);
    } else if (g_str_has_prefix(command, "shot ")) {
        shot(command + strlen("shot "));
    } else if (g_str_has_prefix(command, "cursor ")) {
        write_cursor(command + strlen("cursor "));
    } else {
        emit_failure("bad-command", command);
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
            run_command(g_strchomp(line));
        }
    } while (status == G_IO_STATUS_NORMAL);
    if (status == G_IO_STATUS_AGAIN) {
        return G_SOURCE_CONTINUE;
    }
    g_main_loop_quit(probe.loop);
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
    g_main_loop_quit(probe.loop);
    return G_SOURCE_CONTINUE;
}

/* stdout carries events only: whatever a library prints there goes to stderr. */
static void take_stdout(void)
{
    int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);

    if (fd < 0 || (probe.events = fdopen(fd, "w")) == NULL) {
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

static void parse_sample(const char *text)
{
    if (sscanf(text, "%d,%d,%d,%d", &probe.sample.x, &probe.sample.y, &probe.sample.step,
               &probe.sample.count) != 4
        || probe.sample.x < 0 || probe.sample.y < 0 || probe.sample.step < 1
        || probe.sample.count < 1 || probe.sample.count > SAMPLE_LIMIT) {
        die("--sample is not X,Y,STEP,COUNT with at most %d pixels", SAMPLE_LIMIT);
    }
}

static void parse_options(int argc, char **argv)
{
    g_autofree char *sample = NULL;
    const GOptionEntry entries[] = {
        { "uri", 0, 0, G_OPTION_ARG_STRING, &probe.uri, "the server, as in spice://127.0.0.1:5900",
          "URI" },
        { "display", 0, 0, G_OPTION_ARG_INT, &probe.display_id,
          "the display channel that shot saves (0)", "ID" },
        { "sample", 0, 0, G_OPTION_ARG_STRING, &sample,
          "show COUNT pixels with each update, as bits, from X,Y to the right",
          "X,Y,STEP,COUNT" },
        { 0 },
    };
    g_autoptr(GOptionContext) context = g_option_context_new("- a SPICE client for tests");
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        die("%s", error->message);
    }
    if (probe.uri == NULL) {
        die("need --uri");
    }
    if (sample != NULL) {
        parse_sample(sample);
    }
}

int main(int argc, char **argv)
{
    die_with_parent();
    signal(SIGPIPE, SIG_IGN);
    take_stdout();
    parse_options(argc, argv);

    probe.loop = g_main_loop_new(NULL, FALSE);
    g_unix_signal_add(SIGTERM, quit_by_signal, NULL);
    g_unix_signal_add(SIGINT, quit_by_signal, NULL);
    session_connect();
    listen_for_commands();
    g_main_loop_run(probe.loop);
    return probe.exit_status;
}
