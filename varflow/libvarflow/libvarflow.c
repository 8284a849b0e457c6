/* libvarflow.c: finds Python, starts it, and passes calls of the host program on to
 * varflow/libvarflow/entry.py.
 *
 * Python's own library is loaded by vf_start() and not linked: a host program whose Python is gone starts
 * all the same, and is told. Around every call, the host program's floating-point environment is put away,
 * and around its integrand it is put back. */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "varflow.h"

#include "place.h" /* written by build.py: VERSION, PLACE, and FIND_PLACE, a program that prints such a place */

#define STRING_OF(number) #number
#define AS_STRING(number) STRING_OF(number)
#define PYTHON_VERSION AS_STRING(PY_MAJOR_VERSION) "." AS_STRING(PY_MINOR_VERSION)

extern char **environ;

/* Errors in words */

static _Thread_local char last_error[4096];

static void note_error(const char *words)
{
    snprintf(last_error, sizeof last_error, "%s", words);
}

static int refuse(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int refuse(int status, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vsnprintf(last_error, sizeof last_error, format, values);
    va_end(values);
    return status;
}

const char *vf_last_error(void)
{
    return last_error;
}

const char *vf_version(void)
{
    return VERSION;
}

/* The floating-point environment of the host program, while a call of its goes on in this thread */

struct call {
    fenv_t host;
    struct call *outer; /* that called the integrand which makes this call, or NULL */
};

static _Thread_local struct call *current;

static void enter(struct call *call)
{
    fegetenv(&call->host);
    fesetenv(FE_DFL_ENV);
    call->outer = current;
    current = call;
}

static int leave(struct call *call, int status)
{
    current = call->outer;
    fesetenv(&call->host);
    return status;
}

static int call_host(vf_integrand *f, const double *x, int64_t n, int32_t d, double *values, int32_t m,
                     void *user)
{
    struct call *call = current;
    fenv_t own;
    fegetenv(&own);
    fesetenv(&call->host);
    int status = f(x, n, d, values, m, user);
    fegetenv(&call->host);
    fesetenv(&own);
    return status;
}

/* Functions that varflow/libvarflow/entry.py puts here; the structure `Python` there has the same order. */

static struct {
    int64_t abi_version;
    void (*note_error)(const char *);
    int (*call_host)(vf_integrand *, const double *, int64_t, int32_t, double *, int32_t, void *);
    int (*integrate)(vf_integrand *, void *, int32_t, const double *, const char *, vf_result *);
    int (*run_new)(int32_t, const double *, const char *, vf_handle *);
    int (*ask)(vf_handle, int64_t *, double *);
    int (*tell)(vf_handle, int64_t, const double *);
    int (*run_forget)(vf_handle, int64_t);
    int (*run_step)(vf_handle);
    int (*run_extend)(vf_handle, int64_t);
    int (*run_result)(vf_handle, vf_result *);
    int (*mean)(vf_handle, int32_t, double *, double *);
    int (*warnings)(vf_handle, int64_t, char *);
    int (*flow_new)(int32_t, const double *, const char *, vf_handle *);
    int (*train)(vf_handle, int64_t, const double *, const double *, const double *, const char *);
    int (*train_new)(int32_t, const double *, int64_t, const double *, const double *, const double *,
                     const char *, vf_evaluation *, vf_handle *);
    int (*evaluate)(vf_handle, int64_t, const double *, const double *, const double *, const char *,
                    vf_evaluation *);
    int (*sample)(vf_handle, int64_t, int64_t, double *, double *);
    int (*log_prob)(vf_handle, int64_t, const double *, double *);
    int (*n_parameters)(vf_handle, int64_t *);
    int (*get_parameters)(vf_handle, int64_t, double *);
    int (*set_parameters)(vf_handle, int64_t, const double *);
    int (*gradient)(vf_handle, int64_t, const double *, const double *, const double *, const char *,
                    double *, double *);
    int (*dimension)(vf_handle, int32_t *);
    int (*save)(vf_handle, const char *);
    int (*load)(const char *, const char *, vf_handle *);
    int (*free)(vf_handle);
} python = {.abi_version = VF_ABI_VERSION, .note_error = note_error, .call_host = call_host};

static atomic_bool is_started;
static pid_t process; /* that started Python: its threads are not in one that is forked */

static int check_started(void)
{
    if (!is_started)
        return refuse(VF_NOT_STARTED, "vf_start must be called first, and succeed");
    if (process != getpid())
        return refuse(VF_NOT_STARTED,
                      "this process was forked from one that had called vf_start: fork before");
    return VF_OK;
}

#define PASS_ON(name, ...) \
    struct call call; \
    int status = check_started(); \
    if (status != VF_OK) \
        return status; \
    enter(&call); \
    return leave(&call, python.name(__VA_ARGS__))

int vf_integrate(vf_integrand *f, void *user, int32_t d, const double *bounds, const char *options,
                 vf_result *result)
{
    PASS_ON(integrate, f, user, d, bounds, options, result);
}

int vf_run_new(int32_t d, const double *bounds, const char *options, vf_handle *run)
{
    PASS_ON(run_new, d, bounds, options, run);
}

int vf_ask(vf_handle run, int64_t *n, double *x)
{
    PASS_ON(ask, run, n, x);
}

int vf_tell(vf_handle run, int64_t n, const double *values)
{
    PASS_ON(tell, run, n, values);
}

int vf_run_forget(vf_handle run, int64_t n)
{
    PASS_ON(run_forget, run, n);
}

int vf_run_step(vf_handle run)
{
    PASS_ON(run_step, run);
}

int vf_run_extend(vf_handle run, int64_t n_calls)
{
    PASS_ON(run_extend, run, n_calls);
}

int vf_run_result(vf_handle run, vf_result *result)
{
    PASS_ON(run_result, run, result);
}

int vf_mean(vf_handle result, int32_t m, double *mean, double *covariance)
{
    PASS_ON(mean, result, m, mean, covariance);
}

int vf_warnings(vf_handle handle, int64_t size, char *text)
{
    PASS_ON(warnings, handle, size, text);
}

int vf_flow_new(int32_t d, const double *bounds, const char *options, vf_handle *flow)
{
    PASS_ON(flow_new, d, bounds, options, flow);
}

int vf_train(vf_handle flow, int64_t n, const double *x, const double *p, const double *f,
             const char *options)
{
    PASS_ON(train, flow, n, x, p, f, options);
}

int vf_train_new(int32_t d, const double *bounds, int64_t n, const double *x, const double *p,
                 const double *f, const char *options, vf_evaluation *evaluation, vf_handle *flow)
{
    PASS_ON(train_new, d, bounds, n, x, p, f, options, evaluation, flow);
}

int vf_evaluate(vf_handle flow, int64_t n, const double *x, const double *p, const double *f,
                const char *options, vf_evaluation *evaluation)
{
    PASS_ON(evaluate, flow, n, x, p, f, options, evaluation);
}

int vf_sample(vf_handle handle, int64_t n, int64_t seed, double *x, double *log_q)
{
    PASS_ON(sample, handle, n, seed, x, log_q);
}

int vf_log_prob(vf_handle flow, int64_t n, const double *x, double *log_q)
{
    PASS_ON(log_prob, flow, n, x, log_q);
}

int vf_n_parameters(vf_handle flow, int64_t *n)
{
    PASS_ON(n_parameters, flow, n);
}

int vf_get_parameters(vf_handle flow, int64_t n, double *parameters)
{
    PASS_ON(get_parameters, flow, n, parameters);
}

int vf_set_parameters(vf_handle flow, int64_t n, const double *parameters)
{
    PASS_ON(set_parameters, flow, n, parameters);
}

int vf_gradient(vf_handle flow, int64_t n, const double *x, const double *p, const double *f,
                const char *options, double *loss, double *gradient)
{
    PASS_ON(gradient, flow, n, x, p, f, options, loss, gradient);
}

int vf_dimension(vf_handle handle, int32_t *d)
{
    PASS_ON(dimension, handle, d);
}

int vf_save(vf_handle handle, const char *path)
{
    PASS_ON(save, handle, path);
}

int vf_load(const char *path, const char *options, vf_handle *handle)
{
    PASS_ON(load, path, options, handle);
}

int vf_free(vf_handle handle)
{
    PASS_ON(free, handle);
}

/* Where Python is: lines as place.py prints them */

struct place {
    char *text; /* that the others point into */
    char *version, *executable, *library, *modules, *folders;
};

static int parse_place(struct place *place, char *text)
{
    char **lines[] = {&place->version, &place->executable, &place->library, &place->modules,
                      &place->folders};
    place->text = text;
    for (size_t k = 0; k < sizeof lines / sizeof *lines; k++) {
        char *end = text + strcspn(text, "\n");
        int is_last = *end == '\0';
        if (text == end && k < 2)
            return 0;
        *lines[k] = text;
        *end = '\0';
        text = is_last ? end : end + 1;
    }
    return 1;
}

static char *read_all(int descriptor)
{
    size_t size = 0, room = 1 << 16;
    char *text = malloc(room);
    ssize_t n = 0;
    if (text == NULL)
        return NULL;
    do {
        n = read(descriptor, text + size, room - 1 - size);
        size += n > 0 ? (size_t)n : 0;
    } while (n > 0 || (n < 0 && errno == EINTR)); /* by a signal of the host program's */
    text[size] = '\0';
    return text;
}

/* Ask another interpreter where it is: what it prints, or NULL if it cannot be run. */
static char *place_of(const char *executable)
{
    char *arguments[] = {(char *)executable, "-c", (char *)FIND_PLACE, NULL};
    posix_spawn_file_actions_t actions;
    int ends[2];
    pid_t child;
    char *text = NULL;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return NULL;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    int is_running = posix_spawnp(&child, executable, &actions, NULL, arguments, environ) == 0;
    close(ends[1]);
    if (is_running) {
        text = read_all(ends[0]);
        waitpid(child, NULL, 0);
    }
    close(ends[0]);
    posix_spawn_file_actions_destroy(&actions);
    return text;
}

static int find_place(struct place *place)
{
    const char *named = getenv("VARFLOW_PYTHON");
    int is_named = named != NULL && *named != '\0';
    char *text = is_named ? place_of(named) : strdup(PLACE);
    if (text == NULL || !parse_place(place, text)) {
        free(text);
        return refuse(VF_NO_PYTHON, "VARFLOW_PYTHON is %s, which cannot be run as Python", named);
    }
    const char *advice =
        is_named ? "let VARFLOW_PYTHON name another" : "set VARFLOW_PYTHON to another interpreter";
    const char *missing = access(place->executable, X_OK) != 0 ? place->executable
                        : access(place->modules, R_OK) != 0    ? place->modules
                                                               : NULL;
    int status = VF_OK;
    if (missing != NULL)
        status = refuse(VF_NO_PYTHON, "Python is gone: there is no %s; %s", missing, advice);
    else if (strcmp(place->version, PYTHON_VERSION) != 0)
        status = refuse(VF_NO_PYTHON,
                        "%s is Python %s, and this library was built for %s: %s, or run varflow "
                        "build-library by this one",
                        place->executable, place->version, PYTHON_VERSION, advice);
    else if (*place->library == '\0')
        status = refuse(VF_NO_PYTHON, "%s has no shared library of Python: %s", place->executable, advice);
    if (status != VF_OK)
        free(text);
    return status;
}

/* Functions of Python's, found in its library */

#define FOR_ALL_FUNCTIONS(DO) \
    DO(Py_IsInitialized) \
    DO(PyPreConfig_InitIsolatedConfig) \
    DO(Py_PreInitialize) \
    DO(PyConfig_InitIsolatedConfig) \
    DO(PyConfig_SetBytesString) \
    DO(PyConfig_Clear) \
    DO(Py_InitializeFromConfig) \
    DO(PyStatus_Exception) \
    DO(PyEval_SaveThread) \
    DO(PyGILState_Ensure) \
    DO(PyGILState_Release) \
    DO(PyImport_ImportModule) \
    DO(PyObject_CallMethod) \
    DO(PyErr_Fetch) \
    DO(PyErr_NormalizeException) \
    DO(PyErr_Clear) \
    DO(PyObject_Str) \
    DO(PyUnicode_AsUTF8) \
    DO(PyUnicode_DecodeFSDefault) \
    DO(PySys_GetObject) \
    DO(PyList_Insert)

#define DECLARE(name) __typeof__(&name) name;

static struct {
    FOR_ALL_FUNCTIONS(DECLARE)
} py;

#define FIND(name) \
    if ((*(void **)&py.name = dlsym(library, #name)) == NULL) \
        return refuse(VF_NO_PYTHON, "Python's library lacks a function: %s", dlerror());

static int find_functions(void *library)
{
    FOR_ALL_FUNCTIONS(FIND)
    return VF_OK;
}

/* Starting Python */

static int check(PyStatus status, const char *what)
{
    if (!py.PyStatus_Exception(status))
        return VF_OK;
    return refuse(VF_NO_PYTHON, "Python cannot be started: %s, %s", what,
                  status.err_msg != NULL ? status.err_msg : "it wants to exit");
}

/* Isolated: no signal handlers, locale, streams or variables of the environment are touched or read. */
static int initialise(const struct place *place)
{
    PyPreConfig before;
    PyConfig config;
    py.PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1; /* whatever the locale is */
    int status = check(py.Py_PreInitialize(&before), "before its settings");
    if (status != VF_OK)
        return status;
    py.PyConfig_InitIsolatedConfig(&config);
    config.user_site_directory = 1;
    config.pathconfig_warnings = 0;
    status =
        check(py.PyConfig_SetBytesString(&config, &config.executable, place->executable), "its executable");
    if (status == VF_OK)
        status = check(py.Py_InitializeFromConfig(&config), "its settings");
    py.PyConfig_Clear(&config);
    return status;
}

/* Let modules be looked for in these folders first, as in PYTHONPATH. */
static void add_folders(char *folders)
{
    PyObject *path = py.PySys_GetObject("path");
    char *place = NULL;
    Py_ssize_t k = 0;
    for (char *name = strtok_r(folders, ":", &place); name != NULL; name = strtok_r(NULL, ":", &place)) {
        PyObject *folder = py.PyUnicode_DecodeFSDefault(name);
        if (path == NULL || folder == NULL || py.PyList_Insert(path, k++, folder) != 0)
            py.PyErr_Clear(); /* what is not found then is told */
    }
}

static int refuse_by_exception(const char *executable)
{
    PyObject *kind = NULL, *error = NULL, *trace = NULL, *text = NULL;
    py.PyErr_Fetch(&kind, &error, &trace);
    py.PyErr_NormalizeException(&kind, &error, &trace);
    text = error == NULL ? NULL : py.PyObject_Str(error);
    const char *words = text == NULL ? NULL : py.PyUnicode_AsUTF8(text);
    py.PyErr_Clear();
    return refuse(VF_NO_PYTHON, "varflow cannot be imported by %s: %s", executable,
                  words == NULL ? "it does not say why" : words); /* the objects stay: it happens once */
}

static int connect_python(const char *executable, int is_host_s)
{
    PyGILState_STATE state = py.PyGILState_Ensure();
    PyObject *module = py.PyImport_ImportModule("varflow.libvarflow.entry"), *done = NULL;
    if (module != NULL)
        done = py.PyObject_CallMethod(module, "connect", "Ki", (unsigned long long)(uintptr_t)&python,
                                      is_host_s);
    int status = done == NULL ? refuse_by_exception(executable) : VF_OK;
    py.PyGILState_Release(state);
    return status;
}

static struct place started; /* where Python is that this library has started */

static int start_at(const struct place *place)
{
    /* Global, as modules of Python's look for symbols in it. */
    void *library = dlopen(place->library, RTLD_NOW | RTLD_GLOBAL);
    if (library == NULL)
        return refuse(VF_NO_PYTHON, "Python's library cannot be loaded: %s", dlerror());
    int status = find_functions(library);
    if (status == VF_OK)
        status = initialise(place);
    if (status == VF_OK) {
        add_folders(place->folders);
        py.PyEval_SaveThread(); /* any thread may come next */
        started = *place;
    }
    return status;
}

static int host_has_python(void)
{
    return dlsym(RTLD_DEFAULT, "Py_IsInitialized") != NULL && find_functions(RTLD_DEFAULT) == VF_OK
        && py.Py_IsInitialized();
}

static int start(void)
{
    struct place place;
    if (started.text == NULL && host_has_python())
        return connect_python("the host program's Python", 1);
    if (started.text == NULL) {
        int status = find_place(&place);
        if (status != VF_OK)
            return status;
        status = start_at(&place);
        if (status != VF_OK) {
            free(place.text);
            return status;
        }
    }
    return connect_python(started.executable, 0);
}

int vf_start_abi(int32_t abi_version)
{
    static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
    struct call call;
    if (abi_version != VF_ABI_VERSION)
        return refuse(VF_OTHER_ABI, "varflow.h has ABI %d, libvarflow.so has %d: take both from one folder",
                      (int)abi_version, VF_ABI_VERSION);
    enter(&call);
    pthread_mutex_lock(&starting);
    int status = is_started ? check_started() : start();
    if (status == VF_OK && !is_started) {
        process = getpid();
        is_started = 1;
    }
    pthread_mutex_unlock(&starting);
    return leave(&call, status);
}
