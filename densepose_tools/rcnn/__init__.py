"""DensePose R-CNN (R_50_FPN_s1x) for inference on torch and torchvision, with no compiled extension."""
