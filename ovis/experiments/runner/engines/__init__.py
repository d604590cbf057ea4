"""The engines that start jobs: the local machine, Ray and Slurm."""
