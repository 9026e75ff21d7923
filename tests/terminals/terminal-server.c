/*
 * The other side of a hand-over, as the programs have it that did this first: offers its standard
 * input, output and error at an abstract address of the whole structure's size, to the first who
 * connects, with one byte, and then keeps the terminal's pane open.
 */
#include <err.h>
#include <stdlib.h>
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

    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, 1) < 0)
        err(1, "cannot listen");
    int client = accept(listener, NULL, NULL);
    if (client < 0)
        err(1, "accept");
    close(listener);

    int fds[3] = { STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO };
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof fds)];
    } control = { 0 };
    char byte = 23;
    struct iovec data = { .iov_base = &byte, .iov_len = sizeof byte };
    struct msghdr message = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = CMSG_LEN(sizeof fds),
    };
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(rights), fds, sizeof fds);
    if (sendmsg(client, &message, 0) != 1)
        err(1, "sendmsg");
    close(client);
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    pause();
    return 0;
}
