/* What HashiCorp's go-plugin does to start a plug-in, without what makes it slower (a runtime, TLS,
 * gRPC): a process that listens on a socket, says so in one line, and answers whoever connects. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int count, char **words)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char byte;
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), peer;

    if (count != 2 || strlen(words[1]) >= sizeof address.sun_path)
        return 2;
    strcpy(address.sun_path, words[1]);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1))
        return 1;
    printf("1|1|unix|%s|grpc\n", words[1]);
    fflush(stdout);
    peer = accept(listener, 0, 0);
    while (read(peer, &byte, 1) == 1)
        if (write(peer, &byte, 1) != 1)
            return 1;
    return 0;
}
