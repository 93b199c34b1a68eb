"""What one element of a view is; strides; the labels of a contraction."""
