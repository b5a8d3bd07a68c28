"""The user's data: files, images, labels and scripts, read as a stream of samples."""
