/* Says what vf_start gives, and whether the library works then, here and in a forked process. */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "varflow.h"

int main(void)
{
    vf_handle flow;
    int status = vf_flow_new(2, NULL, NULL, &flow);
    printf("%d %s\n", status, vf_last_error());
    status = vf_start();
    printf("%d %s\n", status, vf_last_error());
    if (status != VF_OK)
        return 0;
    printf("%d %s\n", vf_flow_new(2, NULL, NULL, &flow), vf_version());
    fflush(stdout);
    if (fork() == 0) {
        status = vf_flow_new(2, NULL, NULL, &flow);
        printf("%d %s\n", status, vf_last_error());
        return vf_start() != VF_NOT_STARTED;
    }
    wait(&status);
    return status != 0;
}
