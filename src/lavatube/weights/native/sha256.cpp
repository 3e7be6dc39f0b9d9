// The Python module `lavatube.weights._sha256`: a digest that looks like one of hashlib's.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "abreast.h"

namespace {

struct Message {
    uint32_t state[8];
    uint64_t num_bytes;
    uint8_t rest[BLOCK_BYTES];  // what does not fill a block yet

    void begin() {
        static constexpr uint32_t FIRST[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                              0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
        std::memcpy(state, FIRST, sizeof state);
        num_bytes = 0;
    }

    // Takes the bytes that fill a block that was begun; gives the whole blocks after that, which are to be compressed
    // before anything else is done here, and keeps the rest.
    Blocks add(const uint8_t* data, size_t size) {
        const size_t held = num_bytes % BLOCK_BYTES;
        num_bytes += size;
        if (held) {
            const size_t taken = std::min(size, BLOCK_BYTES - held);
            std::memcpy(rest + held, data, taken);
            data += taken;
            size -= taken;
            if (held + taken < BLOCK_BYTES) return {state, data, 0};
            Blocks full{state, rest, 1};
            compress(full, 1);
        }
        std::memcpy(rest, data + size / BLOCK_BYTES * BLOCK_BYTES, size % BLOCK_BYTES);
        return {state, data, size / BLOCK_BYTES};
    }

    // Ends the message with a one, zeros, and its length in bits.
    void finish(uint8_t (&digest)[32]) {
        uint8_t end[2 * BLOCK_BYTES] = {0x80};
        const size_t held = num_bytes % BLOCK_BYTES, blank = (held < 56 ? 56 : 120) - held;
        for (int i = 0; i < 8; ++i) end[blank + i] = static_cast<uint8_t>(num_bytes * 8 >> (56 - 8 * i));
        Blocks last = add(end, blank + 8);
        compress(last, last.count);
        for (int i = 0; i < 32; ++i) digest[i] = static_cast<uint8_t>(state[i / 4] >> (24 - 8 * (i % 4)));
    }
};

struct Digest {
    PyObject_HEAD
    Message message;
    Job job;
    Py_buffer view;  // of what is lent
    enum { at_rest, lent, settling } state;  // guarded by the interpreter's lock
};

PyTypeObject* digest_type;

Digest* new_digest() {
    Digest* made = PyObject_New(Digest, digest_type);
    if (made) {
        made->message.begin();
        new (&made->job) Job;
        made->state = Digest::at_rest;
    }
    return made;
}

// Two threads at one digest would be a mistake of ours, and a digest of neither's bytes.
bool is_at_rest(const Digest* digest) {
    if (digest->state != Digest::at_rest) PyErr_SetString(PyExc_RuntimeError, "another thread is updating this digest");
    return digest->state == Digest::at_rest;
}

PyObject* lend(PyObject* self, PyObject* data) {
    Digest* digest = reinterpret_cast<Digest*>(self);
    if (!is_at_rest(digest) || PyObject_GetBuffer(data, &digest->view, PyBUF_SIMPLE) < 0) return nullptr;
    digest->state = Digest::lent;
    digest->job.lend(digest->message.add(static_cast<const uint8_t*>(digest->view.buf), digest->view.len));
    Py_RETURN_NONE;
}

PyObject* settle(PyObject* self, PyObject*) {
    Digest* digest = reinterpret_cast<Digest*>(self);
    if (digest->state != Digest::lent && !is_at_rest(digest)) return nullptr;
    if (digest->state == Digest::lent) {
        digest->state = Digest::settling;
        Py_BEGIN_ALLOW_THREADS
        digest->job.settle();
        Py_END_ALLOW_THREADS
        PyBuffer_Release(&digest->view);
        digest->state = Digest::at_rest;
    }
    Py_RETURN_NONE;
}

PyObject* update(PyObject* self, PyObject* data) {
    PyObject* lent = lend(self, data);
    if (!lent) return nullptr;
    Py_DECREF(lent);
    return settle(self, nullptr);
}

PyObject* copy(PyObject* self, PyObject*) {
    const Digest* digest = reinterpret_cast<Digest*>(self);
    Digest* made = is_at_rest(digest) ? new_digest() : nullptr;
    if (made) made->message = digest->message;
    return reinterpret_cast<PyObject*>(made);
}

PyObject* finished(PyObject* self, PyObject*) {
    const Digest* digest = reinterpret_cast<Digest*>(self);
    if (!is_at_rest(digest)) return nullptr;
    Message message = digest->message;
    uint8_t bytes[32];
    message.finish(bytes);
    return PyBytes_FromStringAndSize(reinterpret_cast<char*>(bytes), sizeof bytes);
}

PyObject* finished_hex(PyObject* self, PyObject* nothing) {
    PyObject* bytes = finished(self, nothing);
    PyObject* hex = bytes ? PyObject_CallMethod(bytes, "hex", nullptr) : nullptr;
    Py_XDECREF(bytes);
    return hex;
}

PyMethodDef digest_methods[] = {
    {"update", update, METH_O, "Add bytes. The interpreter's lock is released meanwhile."},
    {"lend", lend, METH_O, "Begin to add bytes, which stay as they are until `settle`; other threads may do it."},
    {"settle", settle, METH_NOARGS, "Have what was lent added, with the interpreter's lock released."},
    {"copy", copy, METH_NOARGS, "A digest that goes on from here."},
    {"digest", finished, METH_NOARGS, "Of all that was added: 32 bytes."},
    {"hexdigest", finished_hex, METH_NOARGS, "The same in 64 characters."},
    {},
};

void release(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    Py_XDECREF(settle(self, nullptr));
    reinterpret_cast<Digest*>(self)->job.~Job();
    PyObject_Free(self);
    Py_DECREF(type);
}

PyType_Slot digest_slots[] = {{Py_tp_methods, digest_methods}, {Py_tp_dealloc, reinterpret_cast<void*>(release)}, {}};
PyType_Spec digest_spec = {"lavatube.weights._sha256.Digest", sizeof(Digest), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, digest_slots};

PyObject* make(PyObject*, PyObject*) { return reinterpret_cast<PyObject*>(new_digest()); }

PyObject* is_supported(PyObject*, PyObject*) { return PyBool_FromLong(has_instructions()); }

PyMethodDef module_methods[] = {
    {"sha256", make, METH_NOARGS, "A digest of no bytes yet. Only where `is_supported()`."},
    {"is_supported", is_supported, METH_NOARGS, "Whether this processor has the instructions."},
    {},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_sha256", nullptr, -1, module_methods};

}  // namespace

PyMODINIT_FUNC PyInit__sha256() {
    PyObject* made = PyModule_Create(&module);
    PyObject* type = made ? PyType_FromSpec(&digest_spec) : nullptr;
    if (!type) return nullptr;
    digest_type = reinterpret_cast<PyTypeObject*>(type);
    return made;
}
