"""Figure 1: the asymptotic study of gradients."""
