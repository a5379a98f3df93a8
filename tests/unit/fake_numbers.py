"""Numbers of trials that ``fake_trial_worker`` takes for something else."""

DIES, HANGS, TALKS, LINGERS = 11, 12, 13, 14
