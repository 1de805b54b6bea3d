/* alloc.c: the caller's allocator, or the C library's. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime.h"

/* A huge page: one fault where small pages take 512, and one entry of the TLB. */
#define HUGE_PAGE ((size_t)2 << 20)

/* Of a last page this much must be wanted, to be worth the rest: the fault of a huge page clears all of it. */
#define WORTH_A_PAGE (HUGE_PAGE / 4)

static void *allocate_with_libc(void *context, size_t size, size_t alignment) {
  (void)context;
  size_t pages = (size + HUGE_PAGE - WORTH_A_PAGE) / HUGE_PAGE;
  if (!pages) return aligned_alloc(alignment, size); /* a multiple of alignment: see lpt_allocate */
  void *block = aligned_alloc(HUGE_PAGE, (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
  if (block) madvise(block, pages * HUGE_PAGE, MADV_HUGEPAGE); /* advice: it may be refused */
  return block;
}

/* Of weights beyond this, much may never be read (tables of words): they come as they are needed. */
#define MOST_AT_ONCE ((uint64_t)128 << 20)

/* What Linux maps at one fault of a file: looking at a byte of each takes half as long as MADV_POPULATE_READ, which
 * looks up every page. */
#define AROUND_A_FAULT ((uintptr_t)64 << 10)

void lpt_map_ahead(const void *weights, uint64_t size) {
  uintptr_t start = (uintptr_t)weights & ~(uintptr_t)4095, end = (uintptr_t)weights + size;
  /* Weights of two such pages lie where the file's can be mapped (codegen/weights_segment.py). Linux then also reads a
   * file that nobody has read yet in large pages, and keeps it so for all processes to come. */
  if (size >= 2 * HUGE_PAGE) madvise((void *)start, end - start, MADV_HUGEPAGE);
  if (size > MOST_AT_ONCE) return;
  for (uintptr_t at = (uintptr_t)weights; at < end; at = (at / AROUND_A_FAULT + 1) * AROUND_A_FAULT)
    (void)*(const volatile uint8_t *)at;
}

static void release_with_libc(void *context, void *block) {
  (void)context;
  free(block);
}

lpt_allocator lpt_allocator_of(const lepton_options *options) {
  if (options && options->allocate)
    return (lpt_allocator){options->allocate, options->release, options->context, NULL};
  return (lpt_allocator){allocate_with_libc, release_with_libc, NULL, NULL};
}

void *lpt_allocate(const lpt_allocator *allocator, size_t size) {
  if (size > (size_t)LPT_MAX_BYTES) return NULL;
  size_t rounded = (size + LPT_ALIGNMENT - 1) / LPT_ALIGNMENT * LPT_ALIGNMENT;
  return allocator->allocate(allocator->context, rounded ? rounded : LPT_ALIGNMENT, LPT_ALIGNMENT);
}

void *lpt_allocate_zeroed(const lpt_allocator *allocator, size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
  void *block = lpt_allocate(allocator, bytes);
  if (block) memset(block, 0, bytes);
  return block;
}

void lpt_release(const lpt_allocator *allocator, void *block) {
  if (block) allocator->release(allocator->context, block);
}

bool lpt_block_reserve(const lpt_allocator *allocator, lpt_block *block, size_t size) {
  if (block->data && block->capacity >= size) return true;
  lpt_release(allocator, block->data); /* before the new one: never both at once */
  block->capacity = 0;
  block->data = lpt_allocate(allocator, size);
  if (!block->data) return false;
  block->capacity = size;
  return true;
}

bool lpt_block_grow(const lpt_allocator *allocator, lpt_block *block, size_t size) {
  if (block->data && block->capacity >= size) return true;
  size_t capacity = block->capacity + block->capacity / 2;
  if (capacity < size) capacity = size;
  void *data = lpt_allocate(allocator, capacity);
  if (!data) return false;
  bool copied = true;
  if (block->capacity && allocator->copy) copied = allocator->copy(allocator->context, data, block->data, block->capacity);
  else if (block->capacity) memcpy(data, block->data, block->capacity);
  if (!copied) {
    lpt_release(allocator, data);
    return false;
  }
  lpt_release(allocator, block->data);
  *block = (lpt_block){data, capacity};
  return true;
}
