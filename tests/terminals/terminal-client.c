/*
 * The other side of a hand-over, as the programs have it that did this first: takes what a server
 * offers at an abstract address of the whole structure's size, believes it, and executes a shell.
 */
#include <err.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "init_console";
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (strlen(name) >= sizeof address.sun_path)
        errx(1, "the name is too long");
    memcpy(address.sun_path + 1, name, strlen(name));

    int server = socket(AF_UNIX, SOCK_STREAM, 0);
    if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof address) < 0)
        err(1, "cannot connect");

    int fds[3];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof fds)];
    } control;
    char byte;
    struct iovec data = { .iov_base = &byte, .iov_len = sizeof byte };
    struct msghdr message = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    if (recvmsg(server, &message, 0) != 1)
        err(1, "nothing came");
    close(server);
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    if (!rights || rights->cmsg_len != CMSG_LEN(sizeof fds))
        errx(1, "not three descriptors came");
    memcpy(fds, CMSG_DATA(rights), sizeof fds);
    for (int fd = 0; fd < 3; fd++) {
        dup2(fds[fd], fd);
        close(fds[fd]);
    }
    execl("/bin/sh", "/bin/sh", (char *)NULL);
    err(1, "/bin/sh");
}
