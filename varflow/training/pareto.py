"""stub"""
import numpy as np
def pareto_shape(log_ratios, log_counts=None):
    return float("nan")
