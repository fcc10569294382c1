/* A stand-in for libnvidia-ml.so.1 and libcuda.so.1, for tests of the ctypes bindings.
 *
 * Written from the documented interfaces only. What it answers stands in the file that the variable
 * FAKE_NVML names, one "key value" per line, read anew at each call; a missing key means
 * NVML_ERROR_NOT_SUPPORTED. Keys of a GPU begin with its index ("0.power 120000"), those of a slice
 * with that of its GPU ("0mig0.uuid MIG-..."). "<key>!" gives the error that the call returns.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };

static char answer[512];

static int find(const char *key) {
  const char *name = getenv("FAKE_NVML");
  FILE *file = name ? fopen(name, "r") : NULL;
  char line[700];
  size_t length = strlen(key);
  int found = 0;
  while (file && fgets(line, sizeof line, file)) {
    if (strncmp(line, key, length) == 0 && line[length] == ' ') {
      line[strcspn(line, "\n")] = 0;
      snprintf(answer, sizeof answer, "%s", line + length + 1);
      found = 1;
    }
  }
  if (file) fclose(file);
  return found;
}

/* Looks a key up; the return code is 0 if it is there. */
static int ask(const char *prefix, const char *key) {
  char full[128];
  snprintf(full, sizeof full, "%s%s!", prefix, key);
  if (find(full)) return atoi(answer);
  snprintf(full, sizeof full, "%s%s", prefix, key);
  return find(full) ? OK : UNSUPPORTED;
}

static unsigned long long number(void) { return strtoull(answer, NULL, 0); }

/* A handle is a static string: the prefix of its keys. */
static char handles[8][4] = {"0.", "1.", "2.", "3.", "4.", "5.", "6.", "7."};
static char slices[8][8][8];

static int ask_uint(void *device, const char *key, unsigned int *value) {
  int code = ask(device, key);
  if (!code) *value = (unsigned int)number();
  return code;
}

static int ask_text(const char *prefix, const char *key, char *buffer, unsigned int size) {
  int code = ask(prefix, key);
  if (code) return code;
  if (strlen(answer) >= size) return TOO_SMALL;
  strcpy(buffer, answer);
  return OK;
}

static unsigned int count(void) { return ask("", "count") ? 0 : (unsigned int)number(); }

int nvmlInit_v2(void) { return find("init!") ? atoi(answer) : OK; }
int nvmlShutdown(void) { return OK; }
int nvmlSystemGetDriverVersion(char *b, unsigned int n) { return ask_text("", "driver", b, n); }

int nvmlDeviceGetCount_v2(unsigned int *value) {
  *value = count();
  return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
  if (index >= count()) return INVALID;
  if (ask(handles[index], "open") == 15) return 15;
  *device = handles[index];
  return OK;
}

static int by_text(const char *key, const char *wanted, void **device) {
  for (unsigned int index = 0; index < count(); index++)
    if (!ask(handles[index], key) && strcmp(answer, wanted) == 0) {
      *device = handles[index];
      return OK;
    }
  return NOT_FOUND;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **d) { return by_text("uuid", uuid, d); }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **d) { return by_text("pci", id, d); }
int nvmlDeviceGetName(void *d, char *b, unsigned int n) { return ask_text(d, "name", b, n); }
int nvmlDeviceGetUUID(void *d, char *b, unsigned int n) { return ask_text(d, "uuid", b, n); }

struct pci {
  char legacy[16];
  unsigned int domain, bus, device, id, subsystem;
  char bus_id[32];
};

int nvmlDeviceGetPciInfo_v3(void *device, struct pci *pci) {
  memset(pci, 0x7f, sizeof *pci);
  return ask_text(device, "pci", pci->bus_id, sizeof pci->bus_id);
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
  int code = ask(device, "capability");
  if (!code) sscanf(answer, "%d.%d", major, minor);
  return code;
}

int nvmlDeviceGetPowerUsage(void *d, unsigned int *v) { return ask_uint(d, "power", v); }
int nvmlDeviceGetPowerManagementLimit(void *d, unsigned int *v) { return ask_uint(d, "limit", v); }
int nvmlDeviceGetEnforcedPowerLimit(void *d, unsigned int *v) { return ask_uint(d, "enforced", v); }
int nvmlDeviceGetPowerManagementDefaultLimit(void *d, unsigned int *v) {
  return ask_uint(d, "default", v);
}

int nvmlDeviceGetPowerManagementLimitConstraints(void *device, unsigned int *low,
                                                 unsigned int *high) {
  int code = ask(device, "range");
  if (!code) sscanf(answer, "%u %u", low, high);
  return code;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *value) {
  int code = ask(device, "energy");
  if (!code) *value = number();
  return code;
}

static int clock_of(void *device, const char *kind, unsigned int which, unsigned int *value) {
  char key[32];
  snprintf(key, sizeof key, "%s%u", kind, which);
  return ask_uint(device, key, value);
}

int nvmlDeviceGetClockInfo(void *d, unsigned int which, unsigned int *v) {
  return clock_of(d, "clock", which, v);
}
int nvmlDeviceGetMaxClockInfo(void *d, unsigned int which, unsigned int *v) {
  return clock_of(d, "max", which, v);
}
int nvmlDeviceGetApplicationsClock(void *d, unsigned int which, unsigned int *v) {
  return clock_of(d, "applications", which, v);
}

int nvmlDeviceGetTemperature(void *device, unsigned int sensor, unsigned int *value) {
  return sensor ? INVALID : ask_uint(device, "temperature", value);
}

#ifndef OLD
int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *value) {
#else
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *value) {
#endif
  int code = ask(device, "reasons");
  if (!code) *value = number();
  return code;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned int value[2]) {
  int code = ask(device, "utilisation");
  if (!code) sscanf(answer, "%u %u", &value[0], &value[1]);
  return code;
}

struct memory_v1 {
  unsigned long long total, free, used;
};
struct memory_v2 {
  unsigned int version;
  unsigned long long total, reserved, free, used;
};

int nvmlDeviceGetMemoryInfo(void *device, struct memory_v1 *memory) {
  int code = ask(device, "memory_v1");
  if (!code) sscanf(answer, "%llu %llu %llu", &memory->total, &memory->free, &memory->used);
  return code;
}

#ifndef OLD
int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory_v2 *memory) {
  int code = ask(device, "memory");
  if (memory->version != (sizeof *memory | 2u << 24)) return 25;
  if (!code)
    sscanf(answer, "%llu %llu %llu %llu", &memory->total, &memory->reserved, &memory->free,
           &memory->used);
  return code;
}
#endif

struct process {
  unsigned int pid;
  unsigned long long used;
  unsigned int gpu_instance, compute_instance;
};

/* The value of "compute": how many, then pid and bytes of the first; each next pid is one more. */
static int processes(void *device, const char *key, unsigned int *room, struct process *list) {
  unsigned int there = 0, pid = 0;
  unsigned long long used = 0;
  int code = ask(device, key);
  if (code) return code;
  sscanf(answer, "%u %u %llu", &there, &pid, &used);
  if (there > *room || (there && !list)) {
    *room = there;
    return TOO_SMALL;
  }
  for (unsigned int index = 0; index < there; index++)
    list[index] = (struct process){pid + index, used, ~0u, ~0u};
  *room = there;
  return OK;
}

#ifdef OLD
#define VERSION(name) name##_v2
#else
#define VERSION(name) name##_v3
#endif
int VERSION(nvmlDeviceGetComputeRunningProcesses)(void *d, unsigned int *n, struct process *list) {
  return processes(d, "compute", n, list);
}
int VERSION(nvmlDeviceGetGraphicsRunningProcesses)(void *d, unsigned int *n, struct process *list) {
  return processes(d, "graphics", n, list);
}

int nvmlDeviceGetPersistenceMode(void *d, unsigned int *v) { return ask_uint(d, "persistence", v); }

int nvmlDeviceGetMigMode(void *device, unsigned int *now, unsigned int *pending) {
  *pending = 1;
  return ask_uint(device, "mig", now);
}
int nvmlDeviceGetMaxMigDeviceCount(void *d, unsigned int *v) { return ask_uint(d, "migs", v); }

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned int index, void **slice) {
  char *prefix = slices[atoi(device)][index % 8];
  snprintf(prefix, 8, "%cmig%u.", *(char *)device, index % 8);
  if (ask(prefix, "uuid")) return NOT_FOUND;
  *slice = prefix;
  return OK;
}

struct field {
  unsigned int id, scope;
  int64_t timestamp, latency;
  unsigned int type, code;
  union {
    double d;
    unsigned int ui;
    unsigned long ul;
    unsigned long long ull;
    long long sll;
    int si;
    unsigned short us;
  } value;
};

/* "field186 1 120000": the value's type (nvmlValueType_t), then the value. */
int nvmlDeviceGetFieldValues(void *device, int n, struct field *fields) {
  if (find("fields!")) return atoi(answer);
  for (int place = 0; place < n; place++) {
    struct field *field = &fields[place];
    char key[32], text[64] = "";
    snprintf(key, sizeof key, "field%u", field->id);
    memset(&field->value, 0x5a, sizeof field->value);
    field->code = field->scope ? INVALID : (unsigned int)ask(device, key);
    field->timestamp = 1700000000000000;
    field->latency = 17;
    if (field->code) continue;
    sscanf(answer, "%u %63s", &field->type, text);
    switch (field->type) {
      case 0: field->value.d = atof(text); break;
      case 1: field->value.ui = (unsigned int)atoll(text); break;
      case 2: field->value.ul = (unsigned long)atoll(text); break;
      case 3: field->value.ull = strtoull(text, NULL, 10); break;
      case 4: field->value.sll = atoll(text); break;
      case 5: field->value.si = atoi(text); break;
      case 6: field->value.us = (unsigned short)atoi(text); break;
    }
  }
  return OK;
}

/* CUDA's driver: keys "cuda.count", "cuda.0.name", ".uuid" (32 hex digits), ".own", ".pci". */
int cuInit(unsigned int flags) {
  if (ask("cuda.", "hang") == OK) for (;;) {}
  if (ask("cuda.", "crash") == OK) abort();
  return flags ? 1 : ask("cuda.", "init") == UNSUPPORTED ? 0 : ask("cuda.", "init");
}

int cuDeviceGetCount(int *value) {
  int code = ask("cuda.", "count");
  if (!code) *value = (int)number();
  return code;
}

int cuDeviceGet(int *device, int ordinal) {
  int code = ask("cuda.", "get");
  *device = ordinal + 40;
  return code == UNSUPPORTED ? OK : code;
}

static int cuda_ask(int device, const char *key) {
  char prefix[32];
  snprintf(prefix, sizeof prefix, "cuda.%d.", device - 40);
  return ask(prefix, key);
}

int cuDeviceGetName(char *buffer, int size, int device) {
  int code = cuda_ask(device, "name");
  if (!code) snprintf(buffer, (size_t)size, "%s", answer);
  return code;
}

int cuDeviceGetPCIBusId(char *buffer, int size, int device) {
  int code = cuda_ask(device, "pci");
  if (!code) snprintf(buffer, (size_t)size, "%s", answer);
  return code;
}

static int cuda_uuid(unsigned char bytes[16], int device, const char *key) {
  int code = cuda_ask(device, key);
  for (int place = 0; !code && place < 16; place++) {
    unsigned int byte = 0;
    sscanf(answer + 2 * place, "%2x", &byte);
    bytes[place] = (unsigned char)byte;
  }
  return code;
}

int cuDeviceGetUuid(unsigned char b[16], int device) { return cuda_uuid(b, device, "uuid"); }
#ifndef OLD
int cuDeviceGetUuid_v2(unsigned char b[16], int device) { return cuda_uuid(b, device, "own"); }

int cuGetErrorName(int code, const char **name) {
  static char text[32];
  snprintf(text, sizeof text, "CUDA_ERROR_FAKE_%d", code);
  *name = text;
  return code == 777 ? 1 : 0;
}
#endif
