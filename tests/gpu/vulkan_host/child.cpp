#include "child.h"

#include <cstdlib>
#include <cstring>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

struct reply {
    uint64_t address;
    char text[256]; // an error or, of the first reply with an address, the device's name
};

struct {
    pid_t pid = 0;
    int socket = -1;
    uint8_t * memory = nullptr;
    uint64_t address = 0;
    std::string device;
    int patience = 0; // s
} child;

reply answer(uint64_t address, const char * text) {
    reply r{};
    r.address = address;
    std::strncpy(r.text, text ? text : "", sizeof(r.text) - 1);
    return r;
}

bool read_all(int from, void * to, size_t bytes) {
    return recv(from, to, bytes, MSG_WAITALL) == (ssize_t) bytes;
}

// Ends where the other end of the socket does.
[[noreturn]] void serve(int socket) {
    setenv("LP_NUM_THREADS", "1", 0); // lavapipe: more are not faster with blocks this few
    const char * error = xq_device_open(XQ_MEMORY);
    reply r = answer(error ? 0 : xq_device_address(), error ? error : xq_device_name());
    xq_dispatch d;
    while (send(socket, &r, sizeof(r), MSG_NOSIGNAL) == sizeof(r) && !error && read_all(socket, &d, sizeof(d))) {
        std::memcpy(xq_device_memory(), child.memory, d.used);
        const char * why = xq_device_run(d);
        std::memcpy(child.memory, xq_device_memory(), d.used);
        r = answer(0, why);
    }
    _exit(0);
}

// Its exit status, if need be by making it end.
int end() {
    int status = 0;
    kill(child.pid, SIGKILL);
    waitpid(child.pid, &status, 0);
    close(child.socket);
    child.pid = 0;
    return status;
}

// What the child says; false if it says nothing, and then there is none any more.
bool receive(reply & r, std::string & error) {
    pollfd p = {child.socket, POLLIN, 0};
    if (poll(&p, 1, 1000*child.patience) == 0) {
        end();
        error = "the device did not come back in " + std::to_string(child.patience) + " s";
        return false;
    }
    if (read_all(child.socket, &r, sizeof(r))) {
        return true;
    }
    const int status = end();
    error = "the driver ended its process";
    if (WIFSIGNALED(status)) {
        error += " with signal " + std::to_string(WTERMSIG(status)); // strsignal speaks the locale's language
    }
    return false;
}

} // namespace

uint8_t * xq_child_memory() { return child.memory; }
const char * xq_child_device() { return child.device.c_str(); }
void xq_child_patience(int seconds) { child.patience = seconds; }
int xq_child_process() { return child.pid; }

uint64_t xq_child_start(std::string & error) {
    if (child.pid) {
        return child.address;
    }
    if (!child.memory) {
        void * m = mmap(nullptr, XQ_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (m == MAP_FAILED) {
            error = "no memory";
            return 0;
        }
        child.memory = (uint8_t *) m;
    }
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        error = "no socket";
        return 0;
    }
    child.pid = fork();
    if (child.pid == 0) {
        close(ends[0]);
        serve(ends[1]);
    }
    close(ends[1]);
    child.socket = ends[0];
    reply r;
    if (!receive(r, error)) {
        return 0;
    }
    if (r.address == 0) {
        error = r.text;
        end();
    } else {
        child.device = r.text;
    }
    return child.address = r.address;
}

bool xq_child_run(const xq_dispatch & d, std::string & error) {
    reply r;
    send(child.socket, &d, sizeof(d), MSG_NOSIGNAL); // where nobody listens, nobody answers
    if (receive(r, error)) {
        error = r.text;
    }
    return error.empty();
}
