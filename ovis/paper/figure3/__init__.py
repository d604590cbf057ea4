"""Figure 3: training curves of VIMCO, OVIS and TVO."""
