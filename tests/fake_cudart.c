/* A stand-in for libcudart, for tests of what runs over it. Device memory is host memory.
 *
 * Written from the documented interface only. What it answers stands in the file that the variable
 * FAKE_CUDART names, one "key value" per line: `count`, `driver`, `runtime` (12090), per device
 * `0.name`, `0.uuid` (32 hex digits), `0.capability` (8 7), `0.total` and `0.used` (bytes),
 * `0.integrated`; `clock virtual` (events take a stream's own time, moved by `fake_advance`; else
 * CLOCK_MONOTONIC); `log <file>` (one line per call); `<function>!` the error that it returns.
 *
 * Work on a stream happens when somebody waits for it, the latest that CUDA allows: who forgets to
 * wait sees old bytes. Fresh memory holds 0xCD. Work on memory that is gone ends the "device"
 * (cudaErrorIllegalAddress for ever). `fake_enqueue` puts a callback among the work of a stream or
 * of a graph, as a library on top would; `fake_counter` tells what is alive and what was done.
 */
#include "fake_cudart.h"

int cudaDriverGetVersion(int *value) {
  int code = enter("cudaDriverGetVersion");
  *value = (int)number(find("driver"), 12090);
  return leave(code);
}

int cudaRuntimeGetVersion(int *value) {
  int code = enter("cudaRuntimeGetVersion");
  *value = (int)number(find("runtime"), 12090);
  return leave(code);
}

int cudaGetDeviceCount(int *value) {
  int code = enter("cudaGetDeviceCount");
  long long driver = number(find("driver"), 12090), runtime = number(find("runtime"), 12090);
  *value = count();
  if (!code && driver / 1000 < runtime / 1000) code = OLD_DRIVER;
  if (!code && !*value) code = NO_DEVICE;
  return leave(code);
}

int cudaSetDevice(int index) {
  int code = enter("cudaSetDevice");
  if (!code && (index < 0 || index >= count())) code = BAD_DEVICE;
  if (!code) device = index;
  return leave(code);
}

int cudaGetDevice(int *index) {
  int code = enter("cudaGetDevice");
  *index = device;
  return leave(code);
}

struct properties { /* what begins it; the rest moved between versions */
  char name[256];
  unsigned char uuid[16], luid[8];
  unsigned int mask;
  size_t total;
  unsigned char rest[736];
};

int cudaGetDeviceProperties(struct properties *told, int index) {
  int code = enter("cudaGetDeviceProperties");
  memset(told, 0x7f, sizeof *told);
  if (!code && (index < 0 || index >= count())) code = BAD_DEVICE;
  if (!code) {
    const char *name = of_device(index, "name");
    snprintf(told->name, sizeof told->name, "%s", name ? name : "Fake GPU");
    told->total = (size_t)number(of_device(index, "total"), 1 << 30);
    const char *digits = of_device(index, "uuid");
    memset(told->uuid, 0, 16);
    for (unsigned int place = 0; digits && place < 16; place++) {
      unsigned int byte = 0;
      sscanf(digits + 2 * place, "%2x", &byte);
      told->uuid[place] = (unsigned char)byte;
    }
  }
  return leave(code);
}

int cudaDeviceGetAttribute(int *value, int attribute, int index) {
  int code = enter("cudaDeviceGetAttribute"), major = 8, minor = 7;
  if (!code && (index < 0 || index >= count())) code = BAD_DEVICE;
  const char *capability = of_device(index, "capability");
  if (capability) sscanf(capability, "%d %d", &major, &minor);
  if (attribute == 75) *value = major;
  else if (attribute == 76) *value = minor;
  else if (attribute == 18) *value = (int)number(of_device(index, "integrated"), 0);
  else if (!code) code = INVALID;
  return leave(code);
}

static long long free_bytes(long long total) {
  return total - number(of_device(device, "used"), 0) - live_bytes;
}

int cudaMemGetInfo(size_t *free_now, size_t *total) {
  int code = enter("cudaMemGetInfo");
  *total = (size_t)number(of_device(device, "total"), 1 << 30);
  long long left = free_bytes((long long)*total);
  *free_now = left > 0 ? (size_t)left : 0;
  return leave(code);
}

int cudaMalloc(void **address, size_t size) {
  int code = enter("cudaMalloc");
  *address = NULL;
  if (!code) code = unsafe();
  if (!code && (long long)size > free_bytes(number(of_device(device, "total"), 1 << 30))) {
    refused++;
    code = NO_MEMORY;
  }
  if (!code && size) {
    thing *memory = make(MEMORY);
    memory->size = size;
    memory->bytes = aligned_alloc(256, (size + 255) / 256 * 256);
    memset(memory->bytes, 0xCD, size);
    live_bytes += (long long)size;
    if (live_bytes > peak_bytes) peak_bytes = live_bytes;
    *address = memory->bytes;
  }
  return leave(code);
}

int cudaFree(void *address) {
  int code = enter("cudaFree");
  if (!code) code = unsafe();
  if (!code && address) {
    thing *one = things;
    drain_all();
    while (one && (one->kind != MEMORY || one->bytes != address)) one = one->next;
    if (one) drop(one);
    else code = INVALID;
  }
  return leave(code);
}

int cudaMemcpyAsync(void *target, const void *source, size_t size, int kind, void *stream) {
  int code = enter("cudaMemcpyAsync");
  if (!code && !known(stream, STREAM)) code = BAD_HANDLE;
  if (!code && kind != TO_HOST && !inside(target, size)) code = INVALID;
  if (!code && kind != TO_DEVICE && !inside(source, size)) code = INVALID;
  if (!code) {
    work piece = {.run = COPY, .target = target, .source = (char *)source, .kind = kind,
                  .size = size};
    if (kind == TO_DEVICE) piece.source = memcpy(malloc(size + 1), source, size);
    code = add(stream, piece);
  }
  return leave(code);
}

int cudaMemsetAsync(void *target, int value, size_t size, void *stream) {
  int code = enter("cudaMemsetAsync");
  if (!code && !known(stream, STREAM)) code = BAD_HANDLE;
  if (!code && !inside(target, size)) code = INVALID;
  if (!code)
    add(stream, (work){.run = FILL, .target = target, .value = value, .size = size});
  return leave(code);
}

int cudaStreamCreateWithFlags(void **stream, unsigned int flags) {
  int code = enter("cudaStreamCreateWithFlags");
  if (!code && flags > 1) code = INVALID;
  *stream = code ? NULL : make(STREAM);
  return leave(code);
}

int cudaStreamSynchronize(thing *stream) {
  int code = enter("cudaStreamSynchronize");
  if (!code && !known(stream, STREAM)) code = BAD_HANDLE;
  if (!code && stream->recording) code = unsafe();
  if (!code) code = drain(stream);
  return leave(code);
}

int cudaStreamDestroy(thing *stream) {
  int code = enter("cudaStreamDestroy");
  if (!known(stream, STREAM)) return leave(code ? code : BAD_HANDLE);
  if (stream->recording) drop(stream->recording);
  drain(stream);
  drop(stream);
  return leave(code);
}

int cudaEventCreate(void **event) {
  int code = enter("cudaEventCreate");
  *event = code ? NULL : make(TIMER);
  return leave(code);
}

int cudaEventRecord(thing *event, thing *stream) {
  int code = enter("cudaEventRecord");
  if (!code && (!known(stream, STREAM) || !known(event, TIMER))) code = BAD_HANDLE;
  if (!code) {
    event->captured = stream->recording != NULL;
    event->over = 0;
    event->size = 1; /* it was recorded once */
    if (!event->captured) add(stream, (work){.run = EVENT, .of = event});
  }
  return leave(code);
}

int cudaEventSynchronize(thing *event) {
  int code = enter("cudaEventSynchronize");
  if (!code && !known(event, TIMER)) code = BAD_HANDLE;
  if (!code && event->captured) code = CAPTURED_EVENT;
  if (!code) drain_all();
  return leave(code ? code : dead);
}

int cudaEventElapsedTime(float *ms, thing *first, thing *second) {
  int code = enter("cudaEventElapsedTime");
  if (!code && (!known(first, TIMER) || !known(second, TIMER))) code = BAD_HANDLE;
  if (!code && (!first->size || !second->size)) code = BAD_HANDLE;
  if (!code && (first->captured || second->captured)) code = CAPTURED_EVENT;
  if (!code && (!first->over || !second->over)) code = NOT_READY;
  if (!code) *ms = (float)(second->time_ms - first->time_ms);
  return leave(code);
}

static int destroy(const char *name, thing *one, int kind) {
  int code = enter(name);
  if (known(one, kind)) drop(one);
  else if (!code) code = BAD_HANDLE;
  return leave(code);
}

int cudaEventDestroy(thing *one) { return destroy("cudaEventDestroy", one, TIMER); }
int cudaGraphDestroy(thing *one) { return destroy("cudaGraphDestroy", one, RECORDED); }
int cudaGraphExecDestroy(thing *one) { return destroy("cudaGraphExecDestroy", one, READY); }

int cudaStreamBeginCapture(thing *stream, int mode) {
  int code = enter("cudaStreamBeginCapture");
  if (!code && !known(stream, STREAM)) code = BAD_HANDLE;
  if (!code && (mode < 0 || mode > 2)) code = INVALID;
  if (!code && stream->recording) code = ILLEGAL_STATE;
  if (!code) {
    stream->recording = make(RECORDED);
    stream->broken = 0;
    stream->thread = pthread_self();
  }
  return leave(code);
}

int cudaStreamEndCapture(thing *stream, void **graph) {
  int code = enter("cudaStreamEndCapture");
  *graph = NULL;
  if (!known(stream, STREAM)) return leave(code ? code : BAD_HANDLE);
  if (!stream->recording) return leave(code ? code : ILLEGAL_STATE);
  if (!code && !pthread_equal(stream->thread, pthread_self())) code = WRONG_THREAD;
  if (code == WRONG_THREAD) return leave(code);
  if (!code && stream->broken) code = CAPTURE_INVALID;
  if (code) drop(stream->recording);
  else *graph = stream->recording;
  stream->recording = NULL;
  return leave(code);
}

static int instantiate(const char *name, void **ready, thing *graph) {
  int code = enter(name);
  *ready = NULL;
  if (!code && !known(graph, RECORDED)) code = BAD_HANDLE;
  if (!code) {
    thing *made_one = make(READY);
    for (work *one = graph->first, **place = &made_one->first; one; one = one->next) {
      *place = memcpy(malloc(sizeof **place), one, sizeof *one);
      (*place)->next = NULL;
      if (one->run == COPY && one->kind == TO_DEVICE)
        (*place)->source = memcpy(malloc(one->size + 1), one->source, one->size);
      place = &(*place)->next;
    }
    *ready = made_one;
  }
  return leave(code);
}

#ifdef OLD /* as before 11.4 */
int cudaGraphInstantiate(void **ready, thing *graph, void **node, char *log, size_t room) {
  if (node || log || room) return INVALID;
  return instantiate("cudaGraphInstantiate", ready, graph);
}
#else
int cudaGraphInstantiate(void **ready, thing *graph, unsigned long long flags) {
  return flags ? INVALID : instantiate("cudaGraphInstantiate", ready, graph);
}
int cudaGraphInstantiateWithFlags(void **ready, thing *graph, unsigned long long flags) {
  return flags ? INVALID : instantiate("cudaGraphInstantiateWithFlags", ready, graph);
}
#endif

int cudaGraphLaunch(thing *graph, thing *stream) {
  int code = enter("cudaGraphLaunch");
  if (!code && (!known(graph, READY) || !known(stream, STREAM))) code = BAD_HANDLE;
  if (!code && stream->recording) code = unsafe();
  if (!code) {
    launches++;
    add(stream, (work){.run = GRAPH, .of = graph});
  }
  return leave(code);
}

int cudaGetLastError(void) {
  int code = last_error;
  last_error = OK;
  return code;
}

int cudaPeekAtLastError(void) { return last_error; }

static const struct { int code; const char *name, *text; } words[] = {
    {OK, "cudaSuccess", "no error"},
    {INVALID, "cudaErrorInvalidValue", "invalid argument"},
    {NO_MEMORY, "cudaErrorMemoryAllocation", "out of memory"},
    {OLD_DRIVER, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient"},
    {NO_DEVICE, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {BAD_DEVICE, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {BAD_HANDLE, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {ILLEGAL_STATE, "cudaErrorIllegalState", "the operation cannot be performed now"},
    {NOT_READY, "cudaErrorNotReady", "device not ready"},
    {ILLEGAL_ADDRESS, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {MISMATCH, "cudaErrorSystemDriverMismatch", "driver and display driver do not match"},
    {CAPTURE_UNSUPPORTED, "cudaErrorStreamCaptureUnsupported", "not permitted when capturing"},
    {CAPTURE_INVALID, "cudaErrorStreamCaptureInvalidated", "capture failed before"},
    {CAPTURED_EVENT, "cudaErrorCapturedEvent", "not permitted on a captured event"},
    {WRONG_THREAD, "cudaErrorStreamCaptureWrongThread", "begun by another thread"},
};

const char *cudaGetErrorName(int code) {
  for (size_t place = 0; place < sizeof words / sizeof *words; place++)
    if (words[place].code == code) return words[place].name;
  return "unrecognized error code";
}

const char *cudaGetErrorString(int code) {
  for (size_t place = 0; place < sizeof words / sizeof *words; place++)
    if (words[place].code == code) return words[place].text;
  return "unrecognized error code";
}

/* For what stands in for a library over CUDA: work on a stream, its time, and the counters. */
int fake_enqueue(thing *stream, callback call, void *argument) {
  int code = enter("fake_enqueue");
  if (!code && !known(stream, STREAM)) code = BAD_HANDLE;
  if (!code) add(stream, (work){.run = CALL, .call = call, .argument = argument});
  return leave(code);
}

int fake_advance(thing *stream, double ms) {
  pthread_mutex_lock(&lock);
  int code = known(stream, STREAM) ? OK : BAD_HANDLE;
  if (!code) stream->time_ms += ms;
  pthread_mutex_unlock(&lock);
  return code;
}

int fake_capturing(thing *stream) {
  pthread_mutex_lock(&lock);
  int found = known(stream, STREAM) && stream->recording;
  pthread_mutex_unlock(&lock);
  return found;
}

/* 1 if all these bytes are live device memory. */
int fake_is_device(const char *address, size_t size) {
  pthread_mutex_lock(&lock);
  int found = inside(address, size);
  pthread_mutex_unlock(&lock);
  return found;
}

long long fake_counter(const char *name) {
  static const char *kinds[] = {"memory", "streams", "events", "recorded", "graphs"};
  if (strcmp(name, "live_bytes") == 0) return live_bytes;
  if (strcmp(name, "peak_bytes") == 0) return peak_bytes;
  if (strcmp(name, "launches") == 0) return launches;
  if (strcmp(name, "refused") == 0) return refused;
  for (int kind = 0; kind < KINDS; kind++) {
    if (strcmp(name, kinds[kind]) == 0) return live[kind];
    if (strncmp(name, "made_", 5) == 0 && strcmp(name + 5, kinds[kind]) == 0) return made[kind];
  }
  return -1;
}

/* As a process that has just begun. */
void fake_reset(void) {
  pthread_mutex_lock(&lock);
  while (things) drop(things);
  memset(live, 0, sizeof live);
  memset(made, 0, sizeof made);
  live_bytes = peak_bytes = launches = refused = 0;
  dead = last_error = device = 0;
  pthread_mutex_unlock(&lock);
}
