from setuptools import find_packages, setup

setup(
    packages=find_packages(
        include=[
            f"{name}{tail}"
            for name in ("arch_search", "kernels", "slurm", "hydra_conf", "cognition_db")
            for tail in ("", ".*")
        ]
    ),
    package_data={
        "hydra_conf": ["**/*.yaml"],
        "cognition_db": ["**/*.json"],
        "arch_search": ["**/*.md", "**/*.json", "**/*.j2"],
        "arch_search.models": ["fla_stand_in/**/*.py"],
    },
)
