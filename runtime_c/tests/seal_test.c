/* seal_test.c: lepton_seal.h: its sums are XXH64, and no changed byte of a file goes unnoticed. */
#define _POSIX_C_SOURCE 200809L
#include <stdbool.h>
#include <stdlib.h>

#include "check.h"
#include "lepton_seal.h"

enum { HEAD = 3 * LEPTON_SEAL_BLOCK + 45, REST = LEPTON_SEAL_BLOCK, SIZE = HEAD + REST };

static uint64_t sum_of(const char *text) {
  lepton_sum sum = lepton_sum_begin();
  return lepton_sum_end(&sum, (const unsigned char *)text, strlen(text));
}

static void sums_are_xxh64(void) {
  CHECK(sum_of("") == 0xEF46DB3751D8E999u);
  CHECK(sum_of("abc") == 0x44BC2CF5AD770999u);
  CHECK(sum_of("Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1u);
}

/* A file of three blocks and a bit, one block of weights, and the seal. */
static int sealed_file(void) {
  char name[] = "/tmp/seal_testXXXXXX";
  static unsigned char content[SIZE];
  for (size_t i = 0; i < SIZE; i++) content[i] = (unsigned char)(i * 2654435761u >> 13);
  int fd = mkstemp(name);
  CHECK(fd >= 0);
  CHECK(!unlink(name));
  lepton_seal seal;
  CHECK(write(fd, content, SIZE) == SIZE);
  CHECK(!lepton_seal_of(fd, SIZE + 1, &seal));
  CHECK(lepton_seal_of(fd, HEAD, &seal));
  CHECK(pwrite(fd, &seal, sizeof seal, SIZE) == (ssize_t)sizeof seal);
  return fd;
}

static void flip(int fd, off_t at, unsigned char bits) {
  unsigned char byte;
  CHECK(pread(fd, &byte, 1, at) == 1);
  byte ^= bits;
  CHECK(pwrite(fd, &byte, 1, at) == 1);
}

static void any_change_is_noticed(void) {
  int fd = sealed_file();
  CHECK(!lepton_damage_of(fd, 1));
  for (off_t at = 0; at < SIZE + (off_t)sizeof(lepton_seal); at += at < SIZE - 64 ? 4099 : 1) {
    bool weight = at >= HEAD && at < SIZE;
    flip(fd, at, (unsigned char)(1 << at % 8));
    CHECK(!lepton_damage_of(fd, 0) == weight);
    CHECK(lepton_damage_of(fd, 1));
    flip(fd, at, (unsigned char)(1 << at % 8));
  }
  CHECK(!lepton_damage_of(fd, 1));
  for (off_t size = SIZE + (off_t)sizeof(lepton_seal) - 1; size > 0; size = size * 2 / 3) {
    CHECK(!ftruncate(fd, size));
    CHECK(lepton_damage_of(fd, 0));
  }
  close(fd);
  CHECK(lepton_damage_of(fd, 0)); /* closed */
}

static void heads_beyond_the_end_are_refused(void) {
  int fd = sealed_file();
  lepton_seal seal;
  CHECK(pread(fd, &seal, sizeof seal, SIZE) == (ssize_t)sizeof seal);
  seal.head = UINT64_MAX;
  seal.own_sum = lepton_seal_own_sum(&seal);
  CHECK(pwrite(fd, &seal, sizeof seal, SIZE) == (ssize_t)sizeof seal);
  CHECK(lepton_damage_of(fd, 1));
  close(fd);
  CHECK(lepton_damage("/nowhere/model.so", 0));
}

int main(void) {
  RUN(sums_are_xxh64);
  RUN(any_change_is_noticed);
  RUN(heads_beyond_the_end_are_refused);
  return failures != 0;
}
