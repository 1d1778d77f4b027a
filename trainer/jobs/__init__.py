"""Jobs on a Kubernetes cluster, seen from a laptop. No TensorFlow."""
