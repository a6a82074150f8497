"""Do generated first-person clips help a recogniser that has few labelled ones? On the kitchen, cell by cell.

Few labelled ego clips of few people in few kitchens, many labelled exo clips of other people in other kitchens; tested
on people and kitchens that occur in neither. Simulated data, tiny networks: the figures say how the method behaves.
"""

from egoloom.recipes.experiments.augmentation.config import AugmentationExperiment
from egoloom.recipes.experiments.augmentation.run import run

__all__ = ["AugmentationExperiment", "run"]
