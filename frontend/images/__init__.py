"""An image's source -> its pixels: guarded download, base64, decoding in child processes."""
