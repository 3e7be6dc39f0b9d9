/* The floor of a download: one connection a file, received into one buffer that is used again, written to the file.
   receive PORT PATH FILE [PATH FILE ...], from 127.0.0.1 over HTTP/1.0; with RECEIVE_FSYNC set it is on the disk, too. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 1 << 20, MOST = 64 };
static int port;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void *receive(void *arguments) {
    char **pair = arguments, *buffer = malloc(BUFFER), *body = NULL;
    int remote = socket(AF_INET, SOCK_STREAM, 0), file = open(pair[1], O_CREAT | O_WRONLY | O_TRUNC, 0600);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (connect(remote, (void *)&address, sizeof address)) fail("connect");
    int length = sprintf(buffer, "GET %s HTTP/1.0\r\n\r\n", pair[0]);
    if (write(remote, buffer, length) != length) fail("request");
    ssize_t held = 0, count;
    while (!body && (count = recv(remote, buffer + held, BUFFER - 1 - held, 0)) > 0) {
        held += count;
        buffer[held] = 0;
        body = strstr(buffer, "\r\n\r\n");
    }
    if (!body) fail("answer");
    body += 4;
    if (write(file, body, buffer + held - body) < 0) fail("write");
    while ((count = recv(remote, buffer, BUFFER, 0)) > 0)
        if (write(file, buffer, count) != count) fail("write");
    if (getenv("RECEIVE_FSYNC") && fsync(file) < 0) fail("fsync");
    close(file);
    close(remote);
    return NULL;
}

int main(int count, char **arguments) {
    pthread_t threads[MOST];
    int files = (count - 2) / 2;
    port = atoi(arguments[1]);
    for (int i = 0; i < files && i < MOST; i++) pthread_create(&threads[i], NULL, receive, arguments + 2 + 2 * i);
    for (int i = 0; i < files && i < MOST; i++) pthread_join(threads[i], NULL);
    return 0;
}
