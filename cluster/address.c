/* address.c - see address.h. */
#include "cluster/address.h"

#include <ifaddrs.h>
#include <inttypes.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static bool begins_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* A path nobody else uses, also not the one a killed process with this pid left behind. */
static status_t name_ipc(const char *bind, char endpoint[FABRIC_ADDRESS_BYTES], struct error *error)
{
    const char *directory = bind + strlen("ipc://");
    size_t length = strlen(directory);
    if (length > 2 && strcmp(directory + length - 2, "/*") == 0)
        length -= 2; /* as with tcp: a name of its own */
    if (length == 0)
        return error_set(error, STATUS_INVALID, "fabric: \"%s\": expected ipc://DIRECTORY", bind);
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        return error_set(error, STATUS_IO, "fabric: no random number for a socket name: %m");
    int written = snprintf(endpoint, FABRIC_ADDRESS_BYTES, "ipc://%.*s/fabric-%d-%016" PRIx64, (int)length,
                           directory, (int)getpid(), random);
    size_t limit = sizeof((struct sockaddr_un *)0)->sun_path - 1;
    if (written < 0 || (size_t)written - strlen("ipc://") > limit)
        return error_set(error, STATUS_INVALID,
                         "fabric: directory %.*s is too long for a socket (limit %zu bytes)", (int)length,
                         directory, limit - strlen("/fabric-1234567-0123456789abcdef"));
    return STATUS_OK;
}

status_t address_to_bind(const char *bind, char endpoint[FABRIC_ADDRESS_BYTES], struct error *error)
{
    if (!bind) return error_set(error, STATUS_INVALID, "fabric: no address to bind to");
    if (begins_with(bind, "ipc://")) return name_ipc(bind, endpoint, error);
    if (!begins_with(bind, "tcp://") || !strrchr(bind + strlen("tcp://"), ':'))
        return error_set(error, STATUS_INVALID, "fabric: \"%s\": expected tcp://ADDRESS:* or ipc://DIRECTORY",
                         bind);
    if (strlen(bind) >= FABRIC_ADDRESS_BYTES)
        return error_set(error, STATUS_INVALID, "fabric: the address to bind to is longer than %d bytes",
                         FABRIC_ADDRESS_BYTES - 1);
    strcpy(endpoint, bind);
    return STATUS_OK;
}

/* "tcp://HOST:PORT" or "HOST:PORT" into its two halves; brackets of IPv6 addresses are taken off. */
static bool split(const char *text, char host[NI_MAXHOST], char port[NI_MAXSERV])
{
    if (begins_with(text, "tcp://")) text += strlen("tcp://");
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text) return false;
    size_t length = (size_t)(colon - text);
    if (text[0] == '[' && text[length - 1] == ']') {
        text++;
        length -= 2;
    }
    if (length >= NI_MAXHOST || strlen(colon + 1) >= NI_MAXSERV) return false;
    memcpy(host, text, length);
    host[length] = '\0';
    strcpy(port, colon + 1);
    return true;
}

/* The own address the system would send from to reach `toward`. Connecting a datagram socket sends nothing.
 */
static status_t address_toward(const char *toward, int family, char host[NI_MAXHOST], struct error *error)
{
    char name[NI_MAXHOST], port[NI_MAXSERV];
    if (!split(toward, name, port))
        return error_set(error, STATUS_INVALID, "fabric: \"%s\": expected tcp://HOST:PORT", toward);
    struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_DGRAM}, *found;
    int failed = getaddrinfo(name, port, &hints, &found);
    if (failed) return error_set(error, STATUS_IO, "fabric: %s: %s", name, gai_strerror(failed));
    struct sockaddr_storage own;
    socklen_t length = sizeof own;
    int fd = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool known = fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) == 0 &&
                 getsockname(fd, (struct sockaddr *)&own, &length) == 0 &&
                 getnameinfo((struct sockaddr *)&own, length, host, NI_MAXHOST, NULL, 0, NI_NUMERICHOST) == 0;
    if (!known) error_set(error, STATUS_IO, "fabric: no way from here to %s: %m", toward);
    if (fd >= 0) close(fd);
    freeaddrinfo(found);
    return known ? STATUS_OK : STATUS_IO;
}

/* The first interface that is up and not loopback; loopback on a host that has no other. */
static status_t address_first(int family, char host[NI_MAXHOST], struct error *error)
{
    struct ifaddrs *all;
    if (getifaddrs(&all) != 0)
        return error_set(error, STATUS_IO, "fabric: the interfaces cannot be listed: %m");
    strcpy(host, family == AF_INET6 ? "::1" : "127.0.0.1");
    for (const struct ifaddrs *one = all; one; one = one->ifa_next) {
        if (!one->ifa_addr || one->ifa_addr->sa_family != family) continue;
        if (!(one->ifa_flags & IFF_UP) || (one->ifa_flags & IFF_LOOPBACK)) continue;
        socklen_t length = family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
        if (getnameinfo(one->ifa_addr, length, host, NI_MAXHOST, NULL, 0, NI_NUMERICHOST) == 0) break;
    }
    freeifaddrs(all);
    return STATUS_OK;
}

status_t address_to_announce(const char *bound, const char *toward, char address[FABRIC_ADDRESS_BYTES],
                             struct error *error)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];
    bool everywhere = begins_with(bound, "tcp://") && split(bound, host, port) &&
                      (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 || strcmp(host, "*") == 0);
    if (!everywhere) {
        snprintf(address, FABRIC_ADDRESS_BYTES, "%s", bound);
        return STATUS_OK;
    }
    int family = strcmp(host, "::") == 0 ? AF_INET6 : AF_INET;
    status_t status =
        toward ? address_toward(toward, family, host, error) : address_first(family, host, error);
    if (status != STATUS_OK) return status;
    bool colons = strchr(host, ':'); /* IPv6 */
    char whole[NI_MAXHOST + NI_MAXSERV + 16];
    snprintf(whole, sizeof whole, "tcp://%s%s%s:%s", colons ? "[" : "", host, colons ? "]" : "", port);
    if (strlen(whole) >= FABRIC_ADDRESS_BYTES)
        return error_set(error, STATUS_INVALID, "fabric: address %s is too long", whole);
    strcpy(address, whole);
    return STATUS_OK;
}
