/* Says what vf_start gives, and whether the library works then. */
#include <stdio.h>

#include "varflow.h"

int main(void)
{
    vf_handle flow;
    int status = vf_flow_new(2, NULL, NULL, &flow);
    printf("%d %s\n", status, vf_last_error());
    status = vf_start();
    printf("%d %s\n", status, vf_last_error());
    if (status == VF_OK)
        printf("%d %s\n", vf_flow_new(2, NULL, NULL, &flow), vf_version());
    return 0;
}
