"""Camera models, poses, rigs, trajectories, and the algebra of crop, resize and rotation."""
