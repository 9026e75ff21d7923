/*
 * The floor: what the same frames cost a program that does nothing but take and encode them.
 *
 *     floor --display :N [--fps 60] [--seconds S] [--quality 80] [--part 1] [--snapshot FILE.ppm]
 *
 * Waits for damage, takes the whole root by XShmGetImage, encodes it with libjpeg-turbo from BGRX at
 * 4:2:0, at most --fps times a second.  With --part 1 it takes and encodes only what changed: the
 * damage's bounding box, in whole blocks of 16x16 pixels.  Prints "ready" after its first frame, then, at the end, one JSON
 * object: frames, seconds, capture_ms and encode_ms (medians of this process's CPU time a frame),
 * capture_mean_ms, encode_mean_ms, cpu_ms (the whole process between ready and end), bytes (median).
 * --snapshot writes one picture of the screen instead, without waiting for anything.
 */
#include <X11/Xlib.h>
#include <X11/Xutil.h>
#include <X11/extensions/XShm.h>
#include <X11/extensions/Xdamage.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <time.h>
#include <turbojpeg.h>
#include <unistd.h>

enum { MAX_FRAMES = 65536 };

static void die(const char *why)
{
    fprintf(stderr, "floor: %s\n", why);
    exit(1);
}

static int64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct options {
    const char *display, *snapshot;
    double fps, seconds;
    int quality, part;
};

static struct options read_options(int argc, char **argv)
{
    struct options o = {.fps = 60, .seconds = 3, .quality = 80};
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--display") == 0)
            o.display = argv[i + 1];
        else if (strcmp(argv[i], "--fps") == 0)
            o.fps = atof(argv[i + 1]);
        else if (strcmp(argv[i], "--seconds") == 0)
            o.seconds = atof(argv[i + 1]);
        else if (strcmp(argv[i], "--quality") == 0)
            o.quality = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--part") == 0)
            o.part = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--snapshot") == 0)
            o.snapshot = argv[i + 1];
        else
            die("usage: floor --display :N [--fps 60] [--seconds S] [--quality 80] [--part 1] "
                "[--snapshot FILE]");
    }
    if (o.fps <= 0)
        die("the rate must be positive");
    return o;
}

static XImage *open_image(Display *display, XShmSegmentInfo *segment)
{
    int screen = DefaultScreen(display);
    XImage *image = XShmCreateImage(display, DefaultVisual(display, screen),
                                    (unsigned)DefaultDepth(display, screen), ZPixmap, NULL, segment,
                                    (unsigned)DisplayWidth(display, screen),
                                    (unsigned)DisplayHeight(display, screen));
    if (image == NULL || image->bits_per_pixel != 32 || image->byte_order != LSBFirst)
        die("the screen must have BGRX pixels");
    segment->shmid = shmget(IPC_PRIVATE, (size_t)image->bytes_per_line * (size_t)image->height,
                            IPC_CREAT | 0600);
    segment->shmaddr = image->data = segment->shmid < 0 ? (char *)-1 : shmat(segment->shmid, NULL, 0);
    if (image->data == (char *)-1)
        die("no shared memory");
    segment->readOnly = False;
    XShmAttach(display, segment);
    XSync(display, False);
    shmctl(segment->shmid, IPC_RMID, NULL);
    return image;
}

static void write_snapshot(const XImage *image, const char *path)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL)
        die("cannot write the snapshot");
    fprintf(file, "P6\n%d %d\n255\n", image->width, image->height);
    for (int y = 0; y < image->height; y++)
        for (int x = 0; x < image->width; x++) {
            const char *pixel = image->data + y * image->bytes_per_line + 4 * x;
            const char rgb[3] = {pixel[2], pixel[1], pixel[0]};
            fwrite(rgb, 3, 1, file);
        }
    if (fclose(file) != 0)
        die("cannot write the snapshot");
}

struct box {
    int left, top, right, bottom;
};

static int lesser(int a, int b)
{
    return a < b ? a : b;
}

/* The box with the area in it, in whole blocks of 16x16 pixels but within the picture. */
static void widen(struct box *box, XRectangle area, const XImage *whole)
{
    box->left = lesser(box->left, area.x & ~15);
    box->top = lesser(box->top, area.y & ~15);
    int right = lesser((area.x + area.width + 15) & ~15, whole->width);
    int bottom = lesser((area.y + area.height + 15) & ~15, whole->height);
    box->right = right > box->right ? right : box->right;
    box->bottom = bottom > box->bottom ? bottom : box->bottom;
}

/* Waits until something was drawn, at most until end, and tells where; returns 0 when nothing was. */
static int wait_damage(Display *display, Damage damage, int event_base, int64_t end,
                       const XImage *whole, struct box *box)
{
    int seen = 0;
    *box = (struct box){whole->width, whole->height, 0, 0};
    for (;;) {
        while (XPending(display) > 0) {
            XEvent event;
            XNextEvent(display, &event);
            if (event.type == event_base + XDamageNotify) {
                widen(box, ((XDamageNotifyEvent *)&event)->area, whole);
                seen = 1;
            }
        }
        int64_t left = end - clock_ns(CLOCK_MONOTONIC);
        if (seen || left <= 0)
            break;
        struct pollfd waited = {ConnectionNumber(display), POLLIN, 0};
        if (poll(&waited, 1, (int)(left / 1000000) + 1) < 0 && errno != EINTR)
            die("poll failed");
    }
    if (seen)
        XDamageSubtract(display, damage, None, None);
    return seen;
}

static void wait_turn(int64_t *turn, int64_t step)
{
    int64_t now = clock_ns(CLOCK_MONOTONIC);
    if (*turn < now)
        *turn = now;
    struct timespec until = {*turn / 1000000000, *turn % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        continue;
    *turn += step;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, ascending);
    return count ? values[count / 2] : 0;
}

static double mean(const double *values, int count)
{
    double sum = 0;
    for (int i = 0; i < count; i++)
        sum += values[i];
    return count ? sum / count : 0;
}

static double capture_ms[MAX_FRAMES], encode_ms[MAX_FRAMES], sizes[MAX_FRAMES];

int main(int argc, char **argv)
{
    struct options o = read_options(argc, argv);
    pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        return 1;
    Display *display = XOpenDisplay(o.display);
    if (display == NULL)
        die("no display");
    Window root = DefaultRootWindow(display);
    XShmSegmentInfo segment;
    XImage *image = open_image(display, &segment);
    if (o.snapshot != NULL) {
        XShmGetImage(display, root, image, 0, 0, AllPlanes);
        write_snapshot(image, o.snapshot);
        return 0;
    }
    int event_base, error_base, major = 1, minor = 1;
    if (!XDamageQueryExtension(display, &event_base, &error_base)
        || !XDamageQueryVersion(display, &major, &minor))
        die("no DAMAGE");
    Damage damage = XDamageCreate(display, root,
                                  o.part ? XDamageReportBoundingBox : XDamageReportNonEmpty);
    tjhandle encoder = tjInitCompress();
    unsigned char *jpeg = tjAlloc((int)tjBufSize(image->width, image->height, TJSAMP_420));
    if (encoder == NULL || jpeg == NULL)
        die("no encoder");

    const XImage whole = *image;
    struct box box;
    const int64_t step = (int64_t)(1e9 / o.fps);
    int64_t begin = 0, cpu_begin = 0, end = clock_ns(CLOCK_MONOTONIC) + 10 * 1000000000LL, turn = 0;
    int frames = -1; /* the first one, which touches all memory, is not counted */
    while (frames < MAX_FRAMES && clock_ns(CLOCK_MONOTONIC) < end) {
        wait_turn(&turn, step);
        int64_t start = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
        if (frames >= 0 && !wait_damage(display, damage, event_base, end, &whole, &box))
            break;
        if (frames < 0 || !o.part)
            box = (struct box){0, 0, whole.width, whole.height};
        image->width = box.right - box.left;
        image->height = box.bottom - box.top;
        image->bytes_per_line = 4 * image->width;
        if (!XShmGetImage(display, root, image, box.left, box.top, AllPlanes))
            die("XShmGetImage failed");
        int64_t captured = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
        unsigned long size = tjBufSize(image->width, image->height, TJSAMP_420);
        if (tjCompress2(encoder, (unsigned char *)image->data, image->width, image->bytes_per_line,
                        image->height, TJPF_BGRX, &jpeg, &size, TJSAMP_420, o.quality,
                        TJFLAG_NOREALLOC) != 0)
            die(tjGetErrorStr2(encoder));
        int64_t encoded = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
        if (frames >= 0) {
            capture_ms[frames] = (double)(captured - start) / 1e6;
            encode_ms[frames] = (double)(encoded - captured) / 1e6;
            sizes[frames] = (double)size;
        } else {
            puts("ready");
            fflush(stdout);
            cpu_begin = encoded;
            begin = clock_ns(CLOCK_MONOTONIC);
            end = begin + (int64_t)(o.seconds * 1e9);
        }
        frames++;
    }
    double seconds = (double)(clock_ns(CLOCK_MONOTONIC) - begin) / 1e9;
    double cpu = (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_begin) / 1e6;
    if (frames < 0)
        die("no first frame");
    double capture_mean = mean(capture_ms, frames), encode_mean = mean(encode_ms, frames);
    printf("{\"frames\": %d, \"seconds\": %.3f, \"capture_ms\": %.4f, \"encode_ms\": %.4f, "
           "\"capture_mean_ms\": %.4f, \"encode_mean_ms\": %.4f, \"cpu_ms\": %.3f, \"bytes\": %.0f}\n",
           frames, seconds, median(capture_ms, frames), median(encode_ms, frames), capture_mean,
           encode_mean, cpu, median(sizes, frames));
    return 0;
}
