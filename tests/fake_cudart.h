/* What the stand-in for libcudart keeps: answers, what is alive, the work of streams. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, OLD_DRIVER = 35, NO_DEVICE = 100, BAD_DEVICE = 101,
       BAD_HANDLE = 400, ILLEGAL_STATE = 401, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
       MISMATCH = 803, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALID = 901, CAPTURED_EVENT = 907,
       WRONG_THREAD = 908 };
enum { TO_DEVICE = 1, TO_HOST = 2, ON_DEVICE = 3 };
typedef void (*callback)(void *);
typedef struct thing thing;
typedef struct work { /* one piece of work; `run` says which members count */
  enum { COPY, FILL, EVENT, CALL, GRAPH } run;
  char *target, *source; /* of COPY to the device: bytes of its own */
  int kind, value;
  size_t size;
  thing *of;
  callback call;
  void *argument;
  struct work *next;
} work;
struct thing { /* an allocation, a stream, an event, a recorded or a ready graph */
  enum { MEMORY, STREAM, TIMER, RECORDED, READY, KINDS } kind;
  char *bytes;
  size_t size;
  int device;
  work *first;     /* of a stream what waits, of a graph what it does */
  thing *recording; /* a stream's: where its work goes while it is captured */
  int broken, captured, over;
  pthread_t thread;
  double time_ms;
  thing *next;
};
static pthread_mutex_t lock;
static thing *things;
static long long live[KINDS], made[KINDS], live_bytes, peak_bytes, launches, refused;
static int dead; /* the error that everything returns from now on */
static __thread int last_error, device;

static __attribute__((constructor)) void start(void) {
  pthread_mutexattr_t kind;
  pthread_mutexattr_init(&kind);
  pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE); /* a callback may call */
  pthread_mutex_init(&lock, &kind);
}

/* The answers, read anew when the file is another. */
static const char *find(const char *key) {
  static char *text;
  static struct stat seen;
  static char answer[512];
  const char *name = getenv("FAKE_CUDART");
  struct stat now;
  if (!name || stat(name, &now)) return NULL;
  if (!text || now.st_ino != seen.st_ino || now.st_size != seen.st_size ||
      now.st_mtim.tv_sec != seen.st_mtim.tv_sec || now.st_mtim.tv_nsec != seen.st_mtim.tv_nsec) {
    FILE *file = fopen(name, "r");
    if (!file) return NULL;
    free(text);
    text = calloc(1, (size_t)now.st_size + 1);
    if (fread(text, 1, (size_t)now.st_size, file) != (size_t)now.st_size) text[0] = 0;
    fclose(file);
    seen = now;
  }
  size_t length = strlen(key);
  for (const char *line = text; *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : "")
    if (strncmp(line, key, length) == 0 && line[length] == ' ') {
      snprintf(answer, sizeof answer, "%.*s", (int)strcspn(line + length + 1, "\n"),
               line + length + 1);
      return answer;
    }
  return NULL;
}

static const char *of_device(int which, const char *key) {
  char full[64];
  snprintf(full, sizeof full, "%d.%s", which, key);
  return find(full);
}

static long long number(const char *found, long long otherwise) {
  return found ? strtoll(found, NULL, 0) : otherwise;
}

static int count(void) { return (int)number(find("count"), 1); }

/* Begins a call: lock, log, and the fault that is asked for. */
static int enter(const char *name) {
  char key[80];
  pthread_mutex_lock(&lock);
  const char *log = find("log");
  FILE *file = log ? fopen(log, "a") : NULL;
  if (file) {
    fprintf(file, "%s\n", name);
    fclose(file);
  }
  snprintf(key, sizeof key, "%s!", name);
  return dead ? dead : (int)number(find(key), OK);
}

static int leave(int code) {
  if (code) last_error = code;
  pthread_mutex_unlock(&lock);
  return code;
}

static thing *make(int kind) {
  thing *made_one = calloc(1, sizeof *made_one);
  made_one->kind = kind;
  made_one->device = device;
  made_one->next = things;
  things = made_one;
  live[kind]++;
  made[kind]++;
  return made_one;
}

static int known(const thing *wanted, int kind) {
  for (thing *one = things; one; one = one->next)
    if (one == wanted) return (int)one->kind == kind;
  return 0;
}

static void forget_work(work *first) {
  while (first) {
    work *next = first->next;
    if (first->run == COPY && first->kind == TO_DEVICE) free(first->source);
    free(first);
    first = next;
  }
}

static void drop(thing *wanted) {
  for (thing **place = &things; *place; place = &(*place)->next)
    if (*place == wanted) {
      *place = wanted->next;
      live[wanted->kind]--;
      if (wanted->kind == MEMORY) live_bytes -= (long long)wanted->size;
      forget_work(wanted->first);
      free(wanted->bytes);
      free(wanted);
      return;
    }
}

static int inside(const char *address, size_t size) {
  for (thing *one = things; one; one = one->next)
    if (one->kind == MEMORY && address >= one->bytes && address + size <= one->bytes + one->size)
      return 1;
  return 0;
}

static double now_ms(const thing *stream) {
  const char *clock = find("clock");
  struct timespec now;
  if (clock && strcmp(clock, "virtual") == 0) return stream->time_ms;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void do_work(work *one, thing *stream) {
  int target_ok = one->kind == TO_HOST || inside(one->target, one->size);
  int source_ok = one->kind == TO_DEVICE || inside(one->source, one->size);
  if (dead) return;
  if (one->run == COPY && (!target_ok || !source_ok)) dead = ILLEGAL_ADDRESS;
  else if (one->run == COPY) memmove(one->target, one->source, one->size);
  else if (one->run == FILL && !target_ok) dead = ILLEGAL_ADDRESS;
  else if (one->run == FILL) memset(one->target, one->value, one->size);
  else if (one->run == CALL) one->call(one->argument);
  else if (one->run == EVENT && known(one->of, TIMER)) {
    one->of->time_ms = now_ms(stream);
    one->of->over = 1;
  } else if (one->run == GRAPH && !known(one->of, READY)) dead = ILLEGAL_ADDRESS;
  else if (one->run == GRAPH)
    for (work *part = one->of->first; part; part = part->next) do_work(part, stream);
}

/* Does what waits on a stream; a callback may add to it. */
static int drain(thing *stream) {
  while (stream->first) {
    work *one = stream->first;
    stream->first = one->next;
    one->next = NULL;
    do_work(one, stream);
    forget_work(one);
  }
  return dead;
}

static void drain_all(void) {
  for (thing *one = things; one; one = one->next)
    if (one->kind == STREAM) drain(one);
}

static int add(thing *stream, work piece) {
  work **place = stream->recording ? &stream->recording->first : &stream->first;
  work *one = malloc(sizeof *one);
  *one = piece;
  while (*place) place = &(*place)->next;
  *place = one;
  return OK;
}

/* What may not be called while this thread captures, and spoils the capture. */
static int unsafe(void) {
  int found = 0;
  for (thing *one = things; one; one = one->next)
    if (one->kind == STREAM && one->recording && pthread_equal(one->thread, pthread_self()))
      found = one->broken = 1;
  return found ? CAPTURE_UNSUPPORTED : OK;
}
