/*
 * solver_unipc.c - UniPC (Zhao et al. 2023, arXiv 2302.04867) for flow models, orders 1 to 3, B(h) of both
 * kinds.
 *
 * As UniPCMultistepScheduler of diffusers 0.42 with use_flow_sigmas, flow_prediction and predict_x0. With
 * alpha = 1 - sigma and lambda = ln(alpha / sigma) a step is, in this order:
 *
 *   data       m   = x - sigma v                          the clean latent the model believes in
 *   corrector  xl' = weights . (xl, m, m_1, m_2, m_3)       repairs x with what is now known
 *   predictor  x'  = weights . (xl', m, m_1, m_2)           on to the next sigma
 *
 * where xl is the latent before the previous predictor and m_1 the data of the previous step.
 *
 * Note that m comes from the uncorrected x and is kept; the model is not asked again. Everything that is not
 * a tensor is folded into the weights here, once, in the constructor: a step is three weighted sums. The
 * scalars run in float32 and in the reference's order of operations, because phi-functions of small h cancel
 * badly and the reference's weights carry that rounding. Logarithms and expm1 are rounded from float64: the
 * same on every machine.
 */
#include "worker/model/solver_kind.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_ORDER = 3, RING = MAX_ORDER + 1 };
_Static_assert(SOLVER_MEMORY >= 1 + MAX_ORDER, "xl, and the data of so many steps");

/* Weights of one step. The terms of both sums are laid out as {xl, newest data, older, ...}. */
struct unipc_weights {
    int corrector_order;            /* 0: no corrector at this step */
    int predictor_order;            /* 1..3 */
    float corrector[MAX_ORDER + 2]; /* [corrector_order + 2]: xl, m, m_1, m_2, m_3 */
    float predictor[MAX_ORDER + 1]; /* [predictor_order + 1]: xl', m, m_1, m_2 */
};

struct unipc {
    struct solver base;
    struct unipc_weights *weights; /* [steps] */
    float *memory;                 /* one allocation on the device: last, then the ring's tensors */
    float *last;                   /* [count] xl */
    float *ring[RING];             /* [count] each: data of step i in ring[i % slots] */
    int slots;                     /* order + 1 */
};

/* ------------------------------------------------------------------------------------------------ weights */

/* Half the logarithm of the signal-to-noise ratio; infinite at sigma 0. */
static float lambda_of(float sigma)
{
    float alpha = 1.0f - sigma;
    return (float)log(alpha) - (float)log(sigma);
}

/* Solves a x = b for `n` unknowns, n <= 3, by elimination with row exchanges, in float32. a and b are used
 * up. */
static void solve(int n, float a[MAX_ORDER][MAX_ORDER], float b[MAX_ORDER], float x[MAX_ORDER])
{
    for (int k = 0; k < n; k++) {
        int pivot = k;
        for (int i = k + 1; i < n; i++)
            if (fabsf(a[i][k]) > fabsf(a[pivot][k])) pivot = i;
        for (int j = 0; j < n; j++) {
            float swap = a[k][j];
            a[k][j] = a[pivot][j];
            a[pivot][j] = swap;
        }
        float swap = b[k];
        b[k] = b[pivot];
        b[pivot] = swap;
        for (int i = k + 1; i < n; i++) {
            float factor = a[i][k] / a[k][k];
            for (int j = k + 1; j < n; j++) a[i][j] -= factor * a[k][j];
            b[i] -= factor * b[k];
        }
    }
    for (int i = n - 1; i >= 0; i--) {
        float sum = b[i];
        for (int j = i + 1; j < n; j++) sum -= a[i][j] * x[j];
        x[i] = sum / a[i][i];
    }
}

/* The quantities of a move from sigmas[from] to sigmas[from + 1]. */
struct move {
    float ratio, alpha;   /* sigma_t / sigma_s, 1 - sigma_t */
    float phi_1, b_of_h;  /* e^-h - 1, and B(h) */
    float r[MAX_ORDER];   /* [order]: (lambda of older data - lambda_s) / h, then 1 for the target's own */
    float rho[MAX_ORDER]; /* how much each of them counts */
};

/* order: number of data tensors behind the move. The predictor has no data at the target and solves the
 * smaller system (`corrects` false); the low orders have closed forms. */
static void move_make(const float *sigmas, int from, int order, bool bh1, bool corrects, struct move *m)
{
    float lambda_s = lambda_of(sigmas[from]);
    float h = lambda_of(sigmas[from + 1]) - lambda_s;
    float hh = -h;
    m->ratio = sigmas[from + 1] / sigmas[from];
    m->alpha = 1.0f - sigmas[from + 1];
    m->phi_1 = (float)expm1(hh);
    m->b_of_h = bh1 ? hh : m->phi_1;
    for (int k = 0; k < order - 1; k++) m->r[k] = (lambda_of(sigmas[from - 1 - k]) - lambda_s) / h;
    m->r[order - 1] = 1.0f;

    int unknowns = corrects ? order : order - 1;
    if (unknowns == 1) {
        m->rho[0] = 0.5f;
        return;
    }
    float matrix[MAX_ORDER][MAX_ORDER] = {{0}}, right[MAX_ORDER] = {0};
    float phi_k = m->phi_1 / hh - 1.0f;
    float factorial = 1.0f;
    for (int i = 0; i < unknowns; i++) {
        for (int k = 0; k < unknowns; k++)
            matrix[i][k] = i == 0 ? 1.0f : i == 1 ? m->r[k] : m->r[k] * m->r[k];
        right[i] = phi_k * factorial / m->b_of_h;
        factorial *= (float)(i + 2);
        phi_k = phi_k / hh - (float)(1.0 / factorial);
    }
    solve(unknowns, matrix, right, m->rho);
}

/* x' = ratio xl - alpha phi_1 m_0 - alpha B sum_k rho_k (m_k - m_0) / r_k, folded: weights[0] for xl,
 * weights[base] for m_0, weights[base + 1 + k] for the older m_k, and weights[1] for the data at the target
 * where corrects. */
static void fold(const struct move *m, int order, bool corrects, float *weights)
{
    int base = corrects ? 2 : 1;
    double on_base = -(double)(m->alpha * m->phi_1);
    for (int k = 0; k < order - 1; k++) {
        weights[base + 1 + k] = -(m->alpha * m->b_of_h * m->rho[k] / m->r[k]);
        on_base -= weights[base + 1 + k];
    }
    if (corrects) {
        weights[1] = -(m->alpha * m->b_of_h * m->rho[order - 1]);
        on_base -= weights[1];
    }
    weights[0] = m->ratio;
    weights[base] = (float)on_base;
}

static bool corrector_disabled(const struct solver_config *config, int step)
{
    for (int i = 0; i < config->disabled_correctors; i++)
        if (config->disable_corrector[i] == step) return true;
    return false;
}

static bool all_finite(const float *weights, int count)
{
    for (int i = 0; i < count; i++)
        if (!isfinite(weights[i])) return false;
    return true;
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Orders: the corrector uses that of the predictor before it; the predictor warms up 1, 2, 3 and, with
 * lower_order_final, comes down again so that the last step, to sigma 0 where lambda is infinite, has
 * order 1. */
static status_t unipc_weights(const struct solver_config *config, const struct solver *base,
                              struct unipc_weights *weights, struct error *error)
{
    for (int i = 0; i < base->steps; i++) {
        struct unipc_weights *w = &weights[i];
        struct move m;
        bool finite = true;
        if (i > 0 && !corrector_disabled(config, i - 1)) {
            w->corrector_order = weights[i - 1].predictor_order;
            move_make(base->sigmas, i - 1, w->corrector_order, config->bh1, true, &m);
            fold(&m, w->corrector_order, true, w->corrector);
            finite = all_finite(w->corrector, w->corrector_order + 2);
        }
        w->predictor_order = least(config->order, i + 1);
        if (config->lower_order_final) w->predictor_order = least(w->predictor_order, base->steps - i);
        move_make(base->sigmas, i, w->predictor_order, config->bh1, false, &m);
        fold(&m, w->predictor_order, false, w->predictor);
        if (!finite || !all_finite(w->predictor, w->predictor_order + 1))
            return error_set(error, STATUS_UNSUPPORTED,
                             "UniPC of order %d with %d steps%s: step %d has no finite weights",
                             config->order, base->steps,
                             config->lower_order_final ? "" : " and lower_order_final false", i);
    }
    return STATUS_OK;
}

/* -------------------------------------------------------------------------------------------------- steps */

static void unipc_destroy(struct solver *solver)
{
    struct unipc *u = (struct unipc *)solver;
    free(u->weights);
    u->base.ops->release(MEMORY_DEVICE, u->memory);
    free(u);
}

static void unipc_step(struct solver *solver, struct team *team, int step, const float *velocity,
                       float *latent)
{
    struct unipc *u = (struct unipc *)solver;
    const struct unipc_weights *w = &u->weights[step];
    const struct ops *ops = solver->ops;
    int64_t count = solver->count;

    /* terms: xl, then the data of this step and of those before it. */
    const float *terms[MAX_ORDER + 2] = {u->last};
    for (int k = 0; k < MAX_ORDER + 1 && k <= step && k < u->slots; k++)
        terms[1 + k] = u->ring[(step - k) % u->slots];

    ops->lincomb(team, 2, (const float[]){1.0f, -solver->sigmas[step]}, (const float *[]){latent, velocity},
                 count, u->ring[step % u->slots]);
    if (w->corrector_order > 0)
        ops->lincomb(team, w->corrector_order + 2, w->corrector, terms, count, u->last);
    else
        ops->copy(team, u->last, latent, (size_t)count * sizeof(float));
    ops->lincomb(team, w->predictor_order + 1, w->predictor, terms, count, latent);
}

/* What the oldest slot holds is overwritten by `step` before anything reads it. */
static int unipc_memory(const struct solver *solver, int step, float *tensors[SOLVER_MEMORY])
{
    const struct unipc *u = (const struct unipc *)solver;
    int count = 0;
    if (step > 0) tensors[count++] = u->last;
    for (int k = 1; k <= step && k < u->slots; k++) tensors[count++] = u->ring[(step - k) % u->slots];
    return count;
}

static const struct solver_methods unipc_methods = {
    .destroy = unipc_destroy, .step = unipc_step, .memory = unipc_memory};

status_t solver_unipc_construct(const struct solver_config *config, const struct solver *base,
                                struct solver **solver, struct error *error)
{
    struct unipc *u = calloc(1, sizeof *u);
    if (u == NULL) return error_set(error, STATUS_NO_MEMORY, "a solver does not fit in memory");
    u->base = *base;
    u->base.methods = &unipc_methods;
    u->slots = config->order + 1;
    u->weights = calloc((size_t)base->steps, sizeof *u->weights);
    size_t row = (size_t)base->count;
    void *memory;
    status_t status = u->weights ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory for weights");
    if (status == STATUS_OK)
        status =
            base->ops->allocate(MEMORY_DEVICE, row * (size_t)(u->slots + 1) * sizeof(float), &memory, error);
    if (status != STATUS_OK) {
        error_prefix(error, "the history of UniPC of order %d", config->order);
        goto fail;
    }
    u->memory = memory;
    u->last = u->memory;
    for (int k = 0; k < u->slots; k++) u->ring[k] = u->memory + row * (size_t)(k + 1);

    status = unipc_weights(config, base, u->weights, error);
    if (status != STATUS_OK) goto fail;
    *solver = &u->base;
    return STATUS_OK;

fail:
    unipc_destroy(&u->base);
    return status;
}
