"""The whole loop once, small: data, teachers, student, generator, augmentation, export, report."""
