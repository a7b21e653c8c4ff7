"""Using interatomic potentials: predictions for frames, molecular dynamics, crystals, calculators."""
