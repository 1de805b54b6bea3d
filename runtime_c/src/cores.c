/* cores.c: how many cores this process may use. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime.h"

enum { PATH_SIZE = 1024, TEXT_SIZE = 4096 };

/* The file's first bytes as text; false if it cannot be read. No stdio: it would allocate. */
static bool read_text(const char *path, char *text, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, text, size - 1);
  close(fd);
  text[n > 0 ? n : 0] = '\0';
  return n > 0;
}

static uint32_t whole_cores(long long quota, long long period) {
  if (quota <= 0 || period <= 0) return 0;
  long long cores = (quota + period - 1) / period;
  return cores > LPT_MAX_THREADS ? LPT_MAX_THREADS : (uint32_t)cores;
}

/* One folder's quota: cpu.max in version 2, cpu.cfs_*_us in version 1. 0: none. */
static uint32_t quota_of(const char *folder) {
  char path[PATH_SIZE + 32], text[128];
  snprintf(path, sizeof path, "%s/cpu.max", folder);
  if (read_text(path, text, sizeof text)) {
    char *rest;
    long long quota = strtoll(text, &rest, 10); /* "max" reads as 0 */
    return whole_cores(quota, strtoll(rest, NULL, 10));
  }
  snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
  if (!read_text(path, text, sizeof text)) return 0;
  long long quota = strtoll(text, NULL, 10); /* -1: none */
  if (quota <= 0) return 0;
  snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
  return read_text(path, text, sizeof text) ? whole_cores(quota, strtoll(text, NULL, 10)) : 0;
}

static uint32_t tighter(uint32_t a, uint32_t b) {
  if (!a || !b) return a ? a : b;
  return a < b ? a : b;
}

/* The tightest quota from `group` up to the root: a parent's limit holds for its children. */
static uint32_t quota_along(const char *root, const char *group, size_t length) {
  char folder[PATH_SIZE];
  while (length && group[length - 1] == '/') length--;
  int n = snprintf(folder, sizeof folder, "%s%.*s", root, (int)length, group);
  if (n < 0 || (size_t)n >= sizeof folder) return quota_of(root);
  uint32_t cores = 0;
  for (;;) {
    cores = tighter(cores, quota_of(folder));
    char *slash = strrchr(folder, '/');
    if (!slash || (size_t)(slash - folder) < strlen(root)) return cores;
    *slash = '\0';
  }
}

/* The group in one line of /proc/self/cgroup, "number:controllers:/group"; NULL where the line is
 * of a controller that does not limit processor time. *version2 tells the unified hierarchy. */
static const char *cpu_group(const char *line, bool *version2) {
  const char *controllers = strchr(line, ':');
  const char *group = controllers ? strchr(++controllers, ':') : NULL;
  if (!group) return NULL;
  *version2 = group == controllers;
  if (*version2) return group + 1;
  for (const char *name = controllers; name < group; name++) {
    size_t length = strcspn(name, ",:");
    if (length == 3 && !strncmp(name, "cpu", 3)) return group + 1;
    name += length;
  }
  return NULL;
}

uint32_t lpt_cgroup_cores(const char *mount, const char *membership) {
  char root[PATH_SIZE];
  uint32_t cores = 0;
  for (const char *line = membership; *line; line += strcspn(line, "\n"), line += *line == '\n') {
    char one[PATH_SIZE];
    size_t length = strcspn(line, "\n");
    if (length >= sizeof one) continue;
    memcpy(one, line, length);
    one[length] = '\0';
    bool version2 = false;
    const char *group = cpu_group(one, &version2);
    if (!group) continue;
    snprintf(root, sizeof root, "%s%s", mount, version2 ? "" : "/cpu");
    cores = tighter(cores, quota_along(root, group, strlen(group)));
  }
  return cores;
}

static uint32_t affinity_cores(void) {
  unsigned long mask[8192 / (8 * sizeof(unsigned long))];
  long bytes = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
  uint32_t cores = 0;
  for (long i = 0; i < bytes / (long)sizeof *mask; i++)
    cores += (uint32_t)__builtin_popcountl(mask[i]);
  return cores ? cores : 1;
}

uint32_t lpt_cores(void) {
  char membership[TEXT_SIZE];
  uint32_t cores = affinity_cores(), quota = 0;
  if (read_text("/proc/self/cgroup", membership, sizeof membership))
    quota = lpt_cgroup_cores("/sys/fs/cgroup", membership);
  cores = tighter(cores, quota);
  return cores > LPT_MAX_THREADS ? LPT_MAX_THREADS : cores;
}
