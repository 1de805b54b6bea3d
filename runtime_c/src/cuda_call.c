/* cuda_call.c: host calls on a GPU. The function works on copies in host memory: its inputs are fetched before it, which
 * waits for all that is queued, and its outputs are stored behind it, which waits for nothing. */
#include "cuda.h"

/* A string is its number on the device, and in what a function is handed. */
static size_t bytes_of(const lepton_tensor *t) {
  int64_t bytes = lpt_tensor_bytes(t->dtype == LEPTON_STRING ? LEPTON_I64 : t->dtype, t->rank, t->shape);
  return bytes > 0 ? (size_t)bytes : 0;
}

/* Room for tensor `index` of the call; its address goes to *tensor. */
static lepton_status reserve(lepton_session *session, uint32_t index, lepton_tensor *tensor) {
  lpt_block *block = &session->cuda->staged[index];
  if (!lpt_block_reserve(&session->allocator, block, bytes_of(tensor)))
    return lpt_fail(session, LEPTON_OUT_OF_MEMORY, "no memory for a copy of %zu bytes from the GPU", bytes_of(tensor));
  tensor->data = block->data;
  return LEPTON_OK;
}

lepton_status lpt_cuda_fetch(lepton_session *session, lepton_tensor *inputs, uint32_t n) {
  const lpt_cuda_driver *d = lpt_cuda();
  cu_handle stream = session->cuda->stream;
  cu_result result = d->stream_wait(stream); /* also for what an earlier call has stored from the same memory */
  for (uint32_t i = 0; i < n && !result; i++) {
    cu_pointer from = (cu_pointer)(uintptr_t)inputs[i].data;
    if (inputs[i].dtype == 0) continue;
    lepton_status status = reserve(session, i, &inputs[i]);
    if (status) return status;
    size_t bytes = bytes_of(&inputs[i]);
    if (bytes) result = d->copy_out(inputs[i].data, from, bytes, stream);
  }
  if (!result) result = d->stream_wait(stream);
  return lpt_cuda_check(session, result, "give tensors to a function on the CPU");
}

lepton_status lpt_cuda_stage(lepton_session *session, uint32_t first, lepton_tensor *outputs, uint32_t n) {
  lepton_status status = LEPTON_OK;
  for (uint32_t i = 0; i < n && !status; i++)
    if (outputs[i].dtype) status = reserve(session, first + i, &outputs[i]);
  return status;
}

lepton_status lpt_cuda_store(lepton_session *session, uint32_t first_operand, const lepton_tensor *outputs, uint32_t n) {
  cu_result result = 0;
  for (uint32_t i = 0; i < n && !result; i++) {
    if (outputs[i].dtype == 0) continue;
    cu_pointer to = (cu_pointer)(uintptr_t)lpt_operand_at(session, first_operand++);
    size_t bytes = bytes_of(&outputs[i]);
    if (bytes) result = lpt_cuda()->copy_in(to, outputs[i].data, bytes, session->cuda->stream);
  }
  return lpt_cuda_check(session, result, "take tensors from a function on the CPU");
}
