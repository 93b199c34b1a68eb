"""Other libraries' arrays and files of tensors."""
