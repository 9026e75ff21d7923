/*
 * A deterministic load on an X server: what a desktop does, without a desktop.
 *
 *     load MODE --display :N [--fps 60] [--seconds S] [--share 0.1] [--record FILE]
 *
 * MODE video: a new full-screen picture each frame; desktop: a page of text that scrolls and a window
 * that moves; typing: the same desktop at rest, a character more each frame; part: the same desktop at rest
 * with a video in its middle, of the screen's shape and --share of its pixels; static: the same desktop,
 * drawn once.  Frame k depends on nothing but k.
 *
 * Prints "ready" when its first picture is on the screen.  Runs until SIGTERM, its parent's death or
 * S seconds.  --record keeps a file of 64-bit words for others to map: word 0 is the number of frames
 * drawn; at word 1 + 2 * (k % RECORD_FRAMES) stand the CLOCK_MONOTONIC nanoseconds at which frame k was
 * asked for and at which the server had drawn it.
 */
#include <X11/Xlib.h>
#include <X11/Xutil.h>
#include <X11/extensions/XShm.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

#include "font.h"

enum {
    VIDEO_FRAMES = 30,
    RECORD_FRAMES = 4096,
    LINE = 19,         /* height of a line of text */
    MARGIN = 8,
    MOVER_WIDTH = 360,
    MOVER_HEIGHT = 260,
    MOVER_TITLE = 26,
    EDITOR_LINES = 3,  /* two to type in, one for the position */
};

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

static void die(const char *why)
{
    fprintf(stderr, "load: %s\n", why);
    exit(1);
}

/* ------------------------------------------------------------------ numbers */

static uint64_t mix(uint64_t x) /* splitmix64, Sebastiano Vigna, public domain */
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ------------------------------------------------------------------ pictures */

struct picture {
    int width, height;
    uint32_t *pixels;
};

struct shared { /* one segment that holds count pictures of the same size */
    XShmSegmentInfo segment;
    XImage *image; /* its data is moved from picture to picture */
};

static Display *display;
static int screen_width, screen_height;
static Window desk;
static GC gc;

static void shared_open(struct shared *s, int width, int height, int count)
{
    s->image = XShmCreateImage(display, DefaultVisual(display, DefaultScreen(display)),
                               (unsigned)DefaultDepth(display, DefaultScreen(display)), ZPixmap, NULL,
                               &s->segment, (unsigned)width, (unsigned)height);
    if (s->image == NULL || s->image->bits_per_pixel != 32 || s->image->bytes_per_line != 4 * width)
        die("the screen must have 32 bits a pixel");
    size_t size = (size_t)width * (size_t)height * 4 * (size_t)count;
    s->segment.shmid = shmget(IPC_PRIVATE, size, IPC_CREAT | 0600);
    if (s->segment.shmid < 0)
        die("no shared memory");
    s->segment.shmaddr = shmat(s->segment.shmid, NULL, 0);
    if (s->segment.shmaddr == (char *)-1)
        die("cannot map the shared memory");
    s->segment.readOnly = False;
    XShmAttach(display, &s->segment);
    XSync(display, False);
    shmctl(s->segment.shmid, IPC_RMID, NULL); /* goes away with its last user */
}

static struct picture shared_picture(const struct shared *s, int index)
{
    size_t words = (size_t)s->image->width * (size_t)s->image->height;
    return (struct picture){s->image->width, s->image->height,
                            (uint32_t *)(void *)s->segment.shmaddr + words * (size_t)index};
}

static void shared_put(const struct shared *s, int index, Drawable to, int x, int y, int width, int height)
{
    s->image->data = (char *)shared_picture(s, index).pixels;
    XShmPutImage(display, to, gc, s->image, 0, 0, x, y, (unsigned)width, (unsigned)height, False);
}

static void fill(struct picture p, int x, int y, int width, int height, uint32_t colour)
{
    for (int row = y; row < y + height && row < p.height; row++)
        for (int column = x; column < x + width && column < p.width; column++)
            p.pixels[row * p.width + column] = colour;
}

static uint32_t blend(uint32_t below, uint32_t above, unsigned coverage) /* coverage 0..15 */
{
    uint32_t result = 0;
    for (int shift = 0; shift < 24; shift += 8) {
        unsigned b = below >> shift & 255, a = above >> shift & 255;
        result |= ((b * (15 - coverage) + a * coverage + 7) / 15) << shift;
    }
    return result;
}

static unsigned digit(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a' + 10);
}

/* Draws one character with its upper left corner at x, y; returns the x behind it. */
static int draw_glyph(struct picture p, int x, int y, char c, uint32_t colour)
{
    const struct glyph *g = &glyphs[c >= GLYPH_FIRST && c < 127 ? c - GLYPH_FIRST : 0];
    for (int row = 0; row < GLYPH_HEIGHT && y + row < p.height; row++)
        for (int column = 0; column < g->width && x + column < p.width; column++) {
            unsigned coverage = digit(g->coverage[row * g->width + column]);
            uint32_t *pixel = &p.pixels[(y + row) * p.width + x + column];
            if (coverage)
                *pixel = blend(*pixel, colour, coverage);
        }
    return x + g->width;
}

static int draw_text(struct picture p, int x, int y, const char *text, uint32_t colour)
{
    for (; *text && x < p.width - 14; text++)
        x = draw_glyph(p, x, y, *text, colour);
    return x;
}

/* ------------------------------------------------------------------ words */

static const char *const words[] = {
    "session", "the", "greeter", "of", "seat", "and", "display", "a", "server", "to", "window", "is",
    "stream", "in", "frame", "that", "screen", "it", "cursor", "for", "device", "on", "channel", "with",
    "agent", "as", "port", "when", "host", "by", "capture", "not", "encode", "or", "monitor", "from",
    "pixel", "at", "buffer", "if", "quality", "one", "switch", "be", "virtual", "terminal", "are",
    "memory", "which", "region", "then", "damage", "each", "message", "has", "format", "login", "new",
    "journal", "after", "viewer", "0x1f40", "1920x1080", "(see 4.2)", "--verbose", "/run/user/1000",
};

static const uint32_t inks[] = {0x1b1f24, 0x1b1f24, 0x1b1f24, 0x24292f, 0x0550ae, 0xcf222e, 0x116329};

/* A line of text: indented as programs and lists are, of any length up to width, now and then empty. */
static void draw_words(struct picture p, int x, int y, int width, uint64_t seed)
{
    uint64_t state = mix(seed);
    int until = x + (state % 8 == 0 ? 0 : (int)(width * (0.15 + (double)(state >> 40 & 1023) / 1900)));
    x += (int)(state >> 8 & 3) * 14;
    while (x < until) {
        state = mix(state);
        const char *word = words[state % (sizeof words / sizeof *words)];
        x = draw_text(p, x, y, word, inks[(state >> 32) % (sizeof inks / sizeof *inks)]);
        x = draw_glyph(p, x, y, ' ', 0);
    }
}

/* ------------------------------------------------------------------ video */

static uint8_t clamp(int value)
{
    return value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
}

/* Slow waves of colour, blobs that wander over them, and the grain of a camera. */
static void draw_video(struct picture p, int k)
{
    enum { BLOBS = 6, GRAIN = 7 };
    const double turn = 2 * M_PI / VIDEO_FRAMES, phase = turn * k;
    int blob_x[BLOBS], blob_y[BLOBS], blob_colour[BLOBS][3];
    for (int b = 0; b < BLOBS; b++) {
        uint64_t r = mix(1000 + (uint64_t)b);
        blob_x[b] = (int)(p.width * (0.5 + 0.4 * sin(phase + b)));
        blob_y[b] = (int)(p.height * (0.5 + 0.4 * cos(phase * (1 + b % 2) + 2 * b)));
        for (int c = 0; c < 3; c++)
            blob_colour[b][c] = (int)(r >> (16 * c) & 255) - 128;
    }
    int *wave_x = calloc((size_t)p.width * 3, sizeof *wave_x);
    if (wave_x == NULL)
        die("no memory");
    for (int x = 0; x < p.width; x++)
        for (int c = 0; c < 3; c++)
            wave_x[3 * x + c] = (int)(45 * sin(x * (4.0 + c) / p.width + phase + c));
    const double reach = p.height * p.height / 9.0;
    uint64_t noise = mix(77 + (uint64_t)k);
    for (int y = 0; y < p.height; y++) {
        int wave_y[3];
        for (int c = 0; c < 3; c++)
            wave_y[c] = 118 + (int)(45 * cos(y * (3.0 + c) / p.height - phase + 2 * c));
        for (int x = 0; x < p.width; x++) {
            int sum[3] = {wave_y[0] + wave_x[3 * x], wave_y[1] + wave_x[3 * x + 1],
                          wave_y[2] + wave_x[3 * x + 2]};
            for (int b = 0; b < BLOBS; b++) {
                double dx = x - blob_x[b], dy = y - blob_y[b];
                double near = 1 - (dx * dx + dy * dy) / reach;
                if (near <= 0)
                    continue;
                double weight = near > 0.25 ? 0.75 + near / 4 : near * 3.25; /* a soft but visible edge */
                for (int c = 0; c < 3; c++)
                    sum[c] += (int)(weight * blob_colour[b][c]);
            }
            noise ^= noise << 13, noise ^= noise >> 7, noise ^= noise << 17; /* xorshift64 */
            int grain = (int)((noise & 0xffff) % GRAIN + (noise >> 16 & 0xffff) % GRAIN) - (GRAIN - 1);
            p.pixels[y * p.width + x] = (uint32_t)clamp(sum[0] + grain) << 16
                                        | (uint32_t)clamp(sum[1] + grain) << 8 | clamp(sum[2] + grain);
        }
    }
    free(wave_x);
}

/* ------------------------------------------------------------------ desktop */

struct desktop {
    int page_width, page_top, page_lines; /* the page at the left, below its title */
    int editor_x, editor_y, editor_width;
    struct shared line; /* two lines of text, drawn here before they are put */
    Window mover;
};

static struct desktop desktop;

static Pixmap pixmap_of(int width, int height, void (*draw)(struct picture))
{
    struct shared s;
    shared_open(&s, width, height, 1);
    draw(shared_picture(&s, 0));
    Pixmap pixmap = XCreatePixmap(display, desk, (unsigned)width, (unsigned)height,
                                  (unsigned)DefaultDepth(display, DefaultScreen(display)));
    shared_put(&s, 0, pixmap, 0, 0, width, height);
    XSync(display, False);
    XShmDetach(display, &s.segment);
    XSync(display, False);
    shmdt(s.segment.shmaddr);
    return pixmap;
}

static void draw_frame_of(struct picture p, int x, int y, int width, int height, const char *title)
{
    fill(p, x, y, width, height, 0x57606a);
    fill(p, x + 1, y + 1, width - 2, height - 2, 0xffffff);
    fill(p, x + 1, y + 1, width - 2, MOVER_TITLE - 1, 0x2f5d8c);
    draw_text(p, x + MARGIN, y + 4, title, 0xffffff);
    for (int button = 1; button <= 3; button++)
        fill(p, x + width - 20 * button, y + 8, 11, 11, button == 1 ? 0xe5534b : 0xd0d7de);
}

static void draw_mover(struct picture p)
{
    draw_frame_of(p, 0, 0, p.width, p.height, "Properties");
    for (int row = 0; MOVER_TITLE + 6 + (row + 1) * LINE < p.height; row++)
        draw_words(p, MARGIN, MOVER_TITLE + 6 + row * LINE, p.width * 2 / 3, 5000 + (uint64_t)row);
}

static void draw_desk(struct picture p)
{
    for (int y = 0; y < p.height; y++)
        for (int x = 0; x < p.width; x++)
            p.pixels[y * p.width + x] = (uint32_t)(40 + 30 * y / p.height) << 16
                                        | (uint32_t)(80 + 50 * x / p.width) << 8
                                        | (uint32_t)(110 + 60 * y / p.height);
    draw_frame_of(p, 0, 0, desktop.page_width, p.height, "notes.txt - Editor");
    for (int row = 0; row < desktop.page_lines; row++)
        draw_words(p, MARGIN, desktop.page_top + row * LINE, desktop.page_width - 130, (uint64_t)row);
    draw_frame_of(p, desktop.editor_x - MARGIN, desktop.editor_y - MOVER_TITLE - 4,
                  desktop.editor_width + 2 * MARGIN, MOVER_TITLE + EDITOR_LINES * LINE + 12, "Message");
    for (int icon = 0; icon < 6; icon++) {
        int y = 40 + icon * 96;
        fill(p, p.width - 92, y, 56, 48, 0xd8b25a - (uint32_t)icon * 0x0a0703);
        fill(p, p.width - 92, y, 26, 8, 0xf0d080);
        draw_text(p, p.width - 96, y + 52, words[icon * 2], 0xffffff);
    }
}

static void place_mover(uint64_t k)
{
    int left = desktop.page_width + 20, room = screen_width - 120 - MOVER_WIDTH - left;
    int depth = desktop.editor_y - MOVER_TITLE - 40 - MOVER_HEIGHT;
    int x = left + (int)(room * (0.5 + 0.5 * sin((double)k * 0.031)));
    int y = 20 + (int)((depth - 20) * (0.5 + 0.5 * sin((double)k * 0.047)));
    XMoveWindow(display, desktop.mover, x, y);
}

static void desktop_open(void)
{
    desktop.page_width = screen_width * 11 / 16;
    desktop.page_top = MOVER_TITLE + 6;
    desktop.page_lines = (screen_height - desktop.page_top - 4) / LINE;
    desktop.editor_x = desktop.page_width + 40;
    desktop.editor_y = screen_height - 160;
    desktop.editor_width = screen_width - 60 - desktop.editor_x;
    if (desktop.editor_width < 300 || desktop.editor_y < 360)
        die("the screen is too small for the desktop");
    shared_open(&desktop.line, desktop.page_width - 2 * MARGIN, LINE, 2);
    XSetWindowBackgroundPixmap(display, desk, pixmap_of(screen_width, screen_height, draw_desk));
    XClearWindow(display, desk);
    XSetWindowAttributes attributes = {
        .override_redirect = True,
        .background_pixmap = pixmap_of(MOVER_WIDTH, MOVER_HEIGHT, draw_mover),
    };
    desktop.mover = XCreateWindow(display, desk, 0, 0, MOVER_WIDTH, MOVER_HEIGHT, 0, CopyFromParent,
                                  InputOutput, CopyFromParent, CWOverrideRedirect | CWBackPixmap,
                                  &attributes);
    place_mover(0);
    XMapWindow(display, desktop.mover);
}

static void put_line(int index, int x, int y, int width)
{
    shared_put(&desktop.line, index, desk, x, y, width, LINE);
}

/* The page moves up by a line, the next one appears at its foot, and the window goes its way. */
static void desktop_frame(uint64_t k)
{
    struct picture line = shared_picture(&desktop.line, 0);
    int bottom = desktop.page_top + (desktop.page_lines - 1) * LINE;
    fill(line, 0, 0, line.width, LINE, 0xffffff);
    draw_words(line, 0, 0, desktop.page_width - 130, (uint64_t)desktop.page_lines + k);
    XCopyArea(display, desk, desk, gc, MARGIN, desktop.page_top + LINE, (unsigned)line.width,
              (unsigned)(bottom - desktop.page_top), MARGIN, desktop.page_top);
    put_line(0, MARGIN, bottom, line.width);
    place_mover(k);
}

/* One character more, in one of two lines, and the position below them as editors show it. */
static void typing_frame(uint64_t k)
{
    enum { PER_LINE = 48 };
    struct picture line = shared_picture(&desktop.line, 0);
    int column = (int)(k % PER_LINE), row = (int)(k / PER_LINE % 2);
    int x = 0;
    fill(line, 0, 0, desktop.editor_width, LINE, 0xffffff);
    for (int c = 0; c <= column; c++) {
        uint64_t letter = mix(k - k % PER_LINE + (uint64_t)c + 9000);
        x = draw_glyph(line, x, 0, letter % 6 == 0 ? ' ' : (char)('a' + letter % 26), 0x1b1f24);
    }
    fill(line, x + 1, 2, 1, LINE - 5, 0x1b1f24); /* the caret */
    put_line(0, desktop.editor_x, desktop.editor_y + row * LINE, desktop.editor_width);

    struct picture below = shared_picture(&desktop.line, 1);
    char position[40];
    snprintf(position, sizeof position, "Ln %d, Col %d", row + 1, column + 1);
    fill(below, 0, 0, desktop.editor_width, LINE, 0xeef1f4);
    draw_text(below, 0, 0, position, 0x57606a);
    put_line(1, desktop.editor_x, desktop.editor_y + 2 * LINE, desktop.editor_width);
}

/* ------------------------------------------------------------------ the run */

struct options {
    const char *mode, *display, *record;
    double fps, seconds, share;
};

static struct options read_options(int argc, char **argv)
{
    struct options o = {.fps = 60, .share = 1};
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-' && o.mode == NULL) {
            o.mode = argv[i];
            continue;
        }
        if (i + 1 == argc)
            die("usage: load MODE --display :N [--fps 60] [--seconds S] [--share 0.1] [--record FILE]");
        const char *name = argv[i], *value = argv[++i];
        if (strcmp(name, "--display") == 0)
            o.display = value;
        else if (strcmp(name, "--fps") == 0)
            o.fps = atof(value);
        else if (strcmp(name, "--seconds") == 0)
            o.seconds = atof(value);
        else if (strcmp(name, "--share") == 0)
            o.share = atof(value);
        else if (strcmp(name, "--record") == 0)
            o.record = value;
        else
            die("unknown option");
    }
    if (o.mode == NULL || o.fps <= 0 || o.share <= 0 || o.share > 1)
        die("a mode, a positive rate and a share from 0 to 1 are needed");
    return o;
}

static volatile uint64_t *open_record(const char *path)
{
    size_t size = (1 + 2 * RECORD_FRAMES) * sizeof(uint64_t);
    if (path == NULL) {
        static uint64_t unseen[1 + 2 * RECORD_FRAMES];
        return unseen;
    }
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
        die("cannot make the record");
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        die("cannot map the record");
    close(fd);
    return map;
}

static void open_desk(const char *name)
{
    display = XOpenDisplay(name);
    if (display == NULL)
        die("no display");
    if (!XShmQueryExtension(display))
        die("no MIT-SHM");
    int screen = DefaultScreen(display);
    screen_width = DisplayWidth(display, screen);
    screen_height = DisplayHeight(display, screen);
    XSetWindowAttributes attributes = {.override_redirect = True, .background_pixmap = None};
    desk = XCreateWindow(display, RootWindow(display, screen), 0, 0, (unsigned)screen_width,
                         (unsigned)screen_height, 0, CopyFromParent, InputOutput, CopyFromParent,
                         CWOverrideRedirect | CWBackPixmap, &attributes);
    gc = XCreateGC(display, desk, 0, NULL);
    XSetGraphicsExposures(display, gc, False);
}

static void run(struct options o, void (*frame)(uint64_t), volatile uint64_t *record)
{
    const int64_t step = (int64_t)(1e9 / o.fps), begin = now_ns();
    const int64_t end = o.seconds > 0 ? begin + (int64_t)(o.seconds * 1e9) : INT64_MAX;
    int64_t due = begin;
    for (uint64_t k = 1; !stopped; k++) {
        due += step;
        int64_t late = now_ns() - due;
        if (late > step)
            due += late; /* no burst to catch up: a slower rate is honest */
        if (due >= end)
            return;
        struct timespec until = {due / 1000000000, due % 1000000000};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR && !stopped)
            continue;
        volatile uint64_t *times = &record[1 + 2 * (k % RECORD_FRAMES)];
        times[0] = (uint64_t)now_ns();
        frame(k);
        XSync(display, False);
        times[1] = (uint64_t)now_ns();
        record[0] = k;
    }
}

static struct shared video;

static void video_open(double share)
{
    int width = (int)lround(screen_width * sqrt(share)), height = (int)lround(screen_height * sqrt(share));
    shared_open(&video, width, height, VIDEO_FRAMES);
    for (int k = 0; k < VIDEO_FRAMES && !stopped; k++)
        draw_video(shared_picture(&video, k), k);
}

static void video_frame(uint64_t k)
{
    int width = video.image->width, height = video.image->height;
    int x = (screen_width - width) / 2, y = (screen_height - height) / 2;
    shared_put(&video, (int)(k % VIDEO_FRAMES), desk, x, y, width, height);
}

int main(int argc, char **argv)
{
    struct options o = read_options(argc, argv);
    pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        return 1;
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    volatile uint64_t *record = open_record(o.record);
    open_desk(o.display);

    void (*frame)(uint64_t) = NULL;
    if (strcmp(o.mode, "video") == 0) {
        frame = video_frame;
        video_open(1);
        XMapWindow(display, desk);
        video_frame(0);
    } else {
        if (strcmp(o.mode, "desktop") == 0)
            frame = desktop_frame;
        else if (strcmp(o.mode, "typing") == 0)
            frame = typing_frame;
        else if (strcmp(o.mode, "part") == 0)
            frame = video_frame;
        else if (strcmp(o.mode, "static") != 0)
            die("the modes are video, desktop, typing, part and static");
        XMapWindow(display, desk);
        desktop_open();
        if (frame == video_frame) {
            XUnmapWindow(display, desktop.mover); /* it would lie over the middle */
            video_open(o.share);
        }
    }
    XSync(display, False);
    puts("ready");
    fflush(stdout);
    if (frame != NULL)
        run(o, frame, record);
    else if (o.seconds > 0)
        usleep((useconds_t)(o.seconds * 1e6));
    else
        while (!stopped)
            pause();
    return 0;
}
