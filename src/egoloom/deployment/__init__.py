"""Export with a parity gate, quantisation, streaming runtime and device benchmark."""
