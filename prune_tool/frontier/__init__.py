"""Where accuracy meets cost: screening, the Pareto front, the choice within a budget, the certificate."""
