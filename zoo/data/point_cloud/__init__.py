"""Point clouds for classification: folders of files or synthetic shapes, augmentation and batches with padding."""
