# Installs jars, with what they need at run time, by Maven. A requirement is group:artifact:version.
set -eu
work=/opt/libraries/work
mkdir -p $work
cd $work
{
    echo '<project><modelVersion>4.0.0</modelVersion><groupId>libraries</groupId><artifactId>libraries</artifactId>'
    echo '<version>0</version><dependencies>'
    for text; do
        rest=${text#*:}
        printf '<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>\n' \
            "${text%%:*}" "${rest%%:*}" "${rest#*:}"
    done
    echo '</dependencies></project>'
} >pom.xml
mvn -B -q -Dmaven.repo.local=$work/repository -DincludeScope=runtime -DoutputDirectory=/opt/libraries/jars \
    dependency:copy-dependencies
rm -rf $work
