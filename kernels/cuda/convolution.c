/* convolution.c - see convolution.h. */
#include "kernels/cuda/convolution.h"

#include <stdlib.h>
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/upload.h"
#include "kernels/weights.h"

struct conv {
    struct conv_shape shape;
    void *packed; /* of the device, [floats] */
    size_t floats;
};

/* Packed on the host, then sent: a VAE's convolutions are a hundredth of a denoiser's weights. */
static status_t fill(struct conv *conv, const struct matrix *w, const struct matrix *bias,
                     struct error *error)
{
    float *host = malloc(conv->floats * sizeof *host);
    if (!host)
        return error_set(error, STATUS_NO_MEMORY, "no memory for a convolution of %d -> %d channels",
                         conv->shape.in_channels, conv->shape.out_channels);
    cuda_conv_pack(&conv->shape, w, bias, host);
    const struct matrix packed = {host, DTYPE_F32, 1, (int)conv->floats};
    status_t status = device_allocate(MEMORY_DEVICE, conv->floats * sizeof *host, &conv->packed, error);
    if (status == STATUS_OK)
        status = upload_weights(&packed, (int64_t)conv->floats, DTYPE_F32, conv->packed, error);
    free(host);
    return status;
}

status_t convolution_make(const struct conv_shape *shape, const struct matrix *w, const struct matrix *bias,
                          struct conv **result, struct error *error)
{
    status_t status = weights_check_conv(shape, w, bias, error);
    if (status != STATUS_OK) return status;
    size_t floats = cuda_conv_floats(shape);
    if (floats > INT32_MAX)
        return error_set(error, STATUS_UNSUPPORTED,
                         "convolution: %d -> %d channels are too many for the GPU backend",
                         shape->in_channels, shape->out_channels);
    struct conv *conv = malloc(sizeof *conv);
    if (!conv)
        return error_set(error, STATUS_NO_MEMORY, "no memory for a convolution of %d -> %d channels",
                         shape->in_channels, shape->out_channels);
    *conv = (struct conv){.shape = *shape, .floats = floats};
    status = upload_open(error);
    if (status == STATUS_OK) {
        status = fill(conv, w, bias, error);
        upload_close();
    }
    if (status != STATUS_OK) {
        convolution_drop(conv);
        return status;
    }
    *result = conv;
    return STATUS_OK;
}

void convolution_drop(struct conv *conv)
{
    if (!conv) return;
    device_release(MEMORY_DEVICE, conv->packed);
    free(conv);
}

size_t convolution_size(const struct conv *conv)
{
    return conv->floats * sizeof(float);
}

int convolution_run(void *stream, const struct conv *conv, const struct volume *x,
                    const struct volume *residual, const struct volume *y)
{
    return cuda_conv(stream, &conv->shape, conv->packed, x, residual, y);
}
