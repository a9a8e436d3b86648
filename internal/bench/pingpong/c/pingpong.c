/* The yardstick of package pingpong: the same exchange as plain C on epoll.
 * One read of up to 128 KiB per event, all answers of an iteration in one
 * system call, headers checked, ids matched. See round() in pingpong.go for
 * the command line. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PACKET 128
#define PAYLOAD 4096
#define BUFFER (128 << 10)
#define DEPTH_MAX 256
#define WARMUP 1000
#define REQUEST_MAGIC 0x2bd7b10325434553ull
#define REPLY_MAGIC 0xbaa699b87b434553ull
#define OP_WRITE 12

struct header {
	uint64_t magic, id, op;
	int64_t retval;
};

static char in[BUFFER + PACKET + PAYLOAD]; /* with what is left of the last read */
static size_t have;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static double cpu(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e9 + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e3;
}

static int watch(int fd)
{
	int one = 1, ep = epoll_create1(0);
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = fd };
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	ioctl(fd, FIONBIO, &one);
	if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev))
		die("epoll");
	return ep;
}

/* wait returns after more bytes were received; 0 at the end of the stream. */
static int wait_bytes(int ep, int fd)
{
	struct epoll_event ev;
	for (;;) {
		if (epoll_wait(ep, &ev, 1, -1) < 0) {
			if (errno == EINTR)
				continue;
			die("epoll_wait");
		}
		ssize_t n = read(fd, in + have, BUFFER);
		if (n > 0) {
			have += n;
			return 1;
		}
		if (n == 0)
			return 0;
		if (errno != EAGAIN)
			die("read");
	}
}

static void keep(size_t from)
{
	memmove(in, in + from, have - from);
	have -= from;
}

static void write_all(int fd, struct iovec *v, int n)
{
	while (n > 0) {
		ssize_t k = writev(fd, v, n > 1024 ? 1024 : n);
		if (k < 0) {
			if (errno != EAGAIN && errno != EINTR)
				die("writev");
			continue;
		}
		while (n > 0 && (size_t)k >= v->iov_len) {
			k -= v->iov_len;
			v++;
			n--;
		}
		if (n > 0) {
			v->iov_base = (char *)v->iov_base + k;
			v->iov_len -= k;
		}
	}
}

static void server(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof a;
	int l = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(l, (struct sockaddr *)&a, len) || listen(l, 1) || getsockname(l, (struct sockaddr *)&a, &len))
		die("listen");
	printf("%d\n", ntohs(a.sin_port));
	fflush(stdout);
	int fd = accept(l, NULL, NULL), ep = watch(fd);
	static char replies[BUFFER / (PACKET + PAYLOAD) + 2][PACKET], stored[PAYLOAD];
	static struct iovec v[BUFFER / (PACKET + PAYLOAD) + 2];
	double start = 0;
	long served = 0;
	while (wait_bytes(ep, fd)) {
		size_t at = 0;
		int n = 0;
		while (have - at >= PACKET + PAYLOAD) {
			struct header *q = (struct header *)(in + at), *r = (struct header *)replies[n];
			if (q->magic != REQUEST_MAGIC || q->op != OP_WRITE)
				die("bad request");
			memcpy(stored, in + at + PACKET, PAYLOAD);
			memset(r, 0, PACKET);
			*r = (struct header){ REPLY_MAGIC, q->id, q->op, PAYLOAD };
			v[n] = (struct iovec){ r, PACKET };
			n++;
			at += PACKET + PAYLOAD;
			if (++served == WARMUP)
				start = cpu();
		}
		keep(at);
		write_all(fd, v, n);
	}
	printf("{\"cpu_ns\": %f}\n", (cpu() - start) / (served - WARMUP));
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(uint32_t *)a, y = *(uint32_t *)b;
	return x < y ? -1 : x > y;
}

static void client(int port, int depth, int count)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&a, sizeof a))
		die("connect");
	int ep = watch(fd);
	static char packets[DEPTH_MAX][PACKET], payload[PAYLOAD];
	static uint64_t ids[DEPTH_MAX], started[DEPTH_MAX];
	static struct iovec v[2 * DEPTH_MAX];
	uint32_t *took = malloc(sizeof *took * (count + 1));
	uint64_t id = 0;
	double start = 0, end = 0;
	int sent = 0, done = 0, n = 0, total = count + WARMUP;
	for (int i = 0; i < depth; i++, sent++) {
		struct header *q = (struct header *)packets[i];
		*q = (struct header){ REQUEST_MAGIC, ids[i] = ++id, OP_WRITE };
		*(uint32_t *)(packets[i] + 40) = PAYLOAD;
		started[i] = now();
		v[n++] = (struct iovec){ packets[i], PACKET };
		v[n++] = (struct iovec){ payload, PAYLOAD };
	}
	write_all(fd, v, n);
	while (done < total && wait_bytes(ep, fd)) {
		size_t at = 0;
		for (n = 0; have - at >= PACKET; at += PACKET) {
			struct header *r = (struct header *)(in + at);
			int i = (r->id - 1) % depth;
			if (r->magic != REPLY_MAGIC || r->op != OP_WRITE || r->retval != PAYLOAD || ids[i] != r->id)
				die("bad reply");
			uint64_t t = now();
			if (done >= WARMUP && done - WARMUP < count)
				took[done - WARMUP] = t - started[i];
			if (++done == WARMUP)
				start = cpu();
			if (done == total)
				end = cpu();
			if (sent < total) {
				sent++;
				((struct header *)packets[i])->id = ids[i] = ids[i] + depth;
				started[i] = t;
				v[n++] = (struct iovec){ packets[i], PACKET };
				v[n++] = (struct iovec){ payload, PAYLOAD };
			}
		}
		keep(at);
		write_all(fd, v, n);
	}
	qsort(took, count, sizeof *took, compare);
	printf("{\"p50_ns\": %u, \"p99_ns\": %u, \"cpu_ns\": %f}\n", took[count / 2], took[count / 100 * 99], (end - start) / count);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "server"))
		server();
	else if (argc == 5 && !strcmp(argv[1], "client"))
		client(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
	else
		return 2;
	return 0;
}
