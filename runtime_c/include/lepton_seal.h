#ifndef LEPTON_SEAL_H_
#define LEPTON_SEAL_H_
/*
 * lepton_seal.h: is the file of a compiled model whole? To be asked before dlopen, which a damaged file can crash.
 *
 *   const char *damage = lepton_damage("model.so", 0);
 *   if (damage) fprintf(stderr, "model.so %s\n", damage);
 *
 * A file ends in a seal: a checksum of its code, its tables and the constants that say where to read (its head), and
 * one of all other weights. The head's takes a fraction of a millisecond; the weights' as long as reading the file.
 * Checksums find accidents, not forgery. POSIX (under -std=c11 it must be asked for, by
 * #define _POSIX_C_SOURCE 200809L before the first #include), little-endian machines; nothing to link to.
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef O_CLOEXEC
#error "lepton_seal.h needs POSIX: #define _POSIX_C_SOURCE 200809L before the first #include, or use -std=gnu11"
#endif

enum { LEPTON_SEAL_BLOCK = 1 << 16 };

typedef struct lepton_seal {
  char magic[8];
  uint64_t head;     /* bytes that head_sum is of                   */
  uint64_t head_sum, rest_sum;
  uint64_t own_sum;  /* of the fields above                         */
} lepton_seal;

#define LEPTON_SEAL_MAGIC "LEPTSEAL"

/* ---- XXH64, seed 0 (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md) ---- */

typedef struct lepton_sum {
  uint64_t lanes[4], size;
} lepton_sum;

#define LEPTON_P1 0x9E3779B185EBCA87u
#define LEPTON_P2 0xC2B2AE3D27D4EB4Fu
#define LEPTON_P3 0x165667B19E3779F9u
#define LEPTON_P4 0x85EBCA77C2B2AE63u
#define LEPTON_P5 0x27D4EB2F165667C5u

static inline uint64_t lepton_rotated(uint64_t x, int by) { return x << by | x >> (64 - by); }

static inline uint64_t lepton_word(const unsigned char *from, size_t size) {
  uint64_t word = 0;
  memcpy(&word, from, size);
  return word;
}

static inline uint64_t lepton_mixed(uint64_t lane, uint64_t word) {
  return lepton_rotated(lane + word * LEPTON_P2, 31) * LEPTON_P1;
}

static inline lepton_sum lepton_sum_begin(void) {
  lepton_sum sum = {{LEPTON_P1 + LEPTON_P2, LEPTON_P2, 0, 0 - LEPTON_P1}, 0};
  return sum;
}

/* Bytes in the middle: a multiple of 32. */
static inline void lepton_sum_add(lepton_sum *sum, const unsigned char *bytes, size_t size) {
  lepton_sum s = *sum;
  for (size_t i = 0; i < size; i += 32)
    for (int lane = 0; lane < 4; lane++) s.lanes[lane] = lepton_mixed(s.lanes[lane], lepton_word(bytes + i + 8 * lane, 8));
  s.size += size;
  *sum = s;
}

/* The sum, after the last bytes, of any number. */
static inline uint64_t lepton_sum_end(lepton_sum *sum, const unsigned char *bytes, size_t size) {
  lepton_sum_add(sum, bytes, size / 32 * 32);
  const unsigned char *end = bytes + size;
  const uint64_t *v = sum->lanes;
  uint64_t total = sum->size + size % 32, h = LEPTON_P5;
  if (sum->size) {
    h = lepton_rotated(v[0], 1) + lepton_rotated(v[1], 7) + lepton_rotated(v[2], 12) + lepton_rotated(v[3], 18);
    for (int lane = 0; lane < 4; lane++) h = (h ^ lepton_mixed(0, v[lane])) * LEPTON_P1 + LEPTON_P4;
  }
  h += total;
  for (bytes += size / 32 * 32; end - bytes >= 8; bytes += 8)
    h = lepton_rotated(h ^ lepton_mixed(0, lepton_word(bytes, 8)), 27) * LEPTON_P1 + LEPTON_P4;
  for (; end - bytes >= 4; bytes += 4)
    h = lepton_rotated(h ^ lepton_word(bytes, 4) * LEPTON_P1, 23) * LEPTON_P2 + LEPTON_P3;
  for (; bytes < end; bytes++) h = lepton_rotated(h ^ *bytes * LEPTON_P5, 11) * LEPTON_P1;
  h = (h ^ h >> 33) * LEPTON_P2;
  h = (h ^ h >> 29) * LEPTON_P3;
  return h ^ h >> 32;
}

/* ---- files ---- */

/* Whether `size` bytes of the file from `at` on could be read. */
static inline int lepton_seal_read(int fd, uint64_t at, void *to, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t got = pread(fd, (char *)to + done, size - done, (off_t)(at + done));
    if (got > 0) done += (size_t)got;
    else if (got == 0 || errno != EINTR) return 0;
  }
  return 1;
}

/* The checksum of the file's bytes from `at` to `end`. 0: they could not be read. */
static inline int lepton_seal_sum(int fd, uint64_t at, uint64_t end, uint64_t *out_sum) {
  unsigned char block[LEPTON_SEAL_BLOCK];
  lepton_sum sum = lepton_sum_begin();
  for (; end - at > sizeof block; at += sizeof block) {
    if (!lepton_seal_read(fd, at, block, sizeof block)) return 0;
    lepton_sum_add(&sum, block, sizeof block);
  }
  if (!lepton_seal_read(fd, at, block, (size_t)(end - at))) return 0;
  *out_sum = lepton_sum_end(&sum, block, (size_t)(end - at));
  return 1;
}

static inline uint64_t lepton_seal_own_sum(const lepton_seal *seal) {
  lepton_sum sum = lepton_sum_begin();
  return lepton_sum_end(&sum, (const unsigned char *)seal, offsetof(lepton_seal, own_sum));
}

/* What is wrong with the open file, in words that go after its name; NULL: nothing. `weights`: look at them too. */
static inline const char *lepton_damage_of(int fd, int weights) {
  struct stat file;
  lepton_seal seal;
  uint64_t sum;
  if (fstat(fd, &file)) return "cannot be read";
  if ((uint64_t)file.st_size < sizeof seal) return "is truncated";
  uint64_t end = (uint64_t)file.st_size - sizeof seal;
  if (!lepton_seal_read(fd, end, &seal, sizeof seal)) return "cannot be read";
  if (memcmp(seal.magic, LEPTON_SEAL_MAGIC, sizeof seal.magic) || seal.own_sum != lepton_seal_own_sum(&seal) ||
      seal.head > end)
    return "is truncated, damaged at its end, or not written by this version of leptonc";
  if (!lepton_seal_sum(fd, 0, seal.head, &sum)) return "cannot be read";
  if (sum != seal.head_sum) return "is damaged: its code or tables are not as they were written";
  if (weights && !lepton_seal_sum(fd, seal.head, end, &sum)) return "cannot be read";
  return weights && sum != seal.rest_sum ? "is damaged: its weights are not as they were written" : NULL;
}

/* The same by the file's name. */
static inline const char *lepton_damage(const char *path, int weights) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return strerror(errno);
  const char *damage = lepton_damage_of(fd, weights);
  close(fd);
  return damage;
}

/* The seal of a file that ends here, for its writer. 0: it could not be read. */
static inline int lepton_seal_of(int fd, uint64_t head, lepton_seal *out_seal) {
  struct stat file;
  lepton_seal seal;
  memset(&seal, 0, sizeof seal);
  memcpy(seal.magic, LEPTON_SEAL_MAGIC, sizeof seal.magic);
  seal.head = head;
  if (fstat(fd, &file) || head > (uint64_t)file.st_size || !lepton_seal_sum(fd, 0, head, &seal.head_sum) ||
      !lepton_seal_sum(fd, head, (uint64_t)file.st_size, &seal.rest_sum))
    return 0;
  seal.own_sum = lepton_seal_own_sum(&seal);
  *out_seal = seal;
  return 1;
}

#endif
