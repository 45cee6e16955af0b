"""From raw inputs (texts, images, audio) to the tensors that models take; saved beside the weights."""
